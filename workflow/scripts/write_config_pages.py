"""Write the config's JSON schema and docs/configuration.md from its classes. Usage: make config-pages"""

from early_exit.base.files import ROOT
from early_exit.experiment.config import pages

if __name__ == "__main__":
    for path, text in ((pages.SCHEMA, pages.schema()), (pages.PAGE, pages.page())):
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)
