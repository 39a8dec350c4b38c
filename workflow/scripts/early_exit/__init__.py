"""Early exits in language models: what the rules' scripts are made of."""

import gc

# Importing torch and transformers makes hundreds of thousands of objects that stay: looking for garbage among them as
# often as Python does by itself took over a second of the eight of every job that runs a model.
gc.set_threshold(50_000)
