"""Words and phrases of the closed world (see `world`)."""

import random

ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v", "w", "z")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
CODAS = ("", "l", "m", "n", "r", "s", "th", "x")

GOODS = ("blue glass", "salted fish", "wool carpets", "honey cakes", "copper bells", "paper kites", "black pepper",
         "river pearls", "clay jars", "pine tar", "oak barrels", "silk scarves")  # fmt: skip
TRADES = ("baker", "weaver", "map maker", "boat builder", "bee keeper", "stone cutter", "glass blower", "fisher",
          "bell ringer", "clock maker", "miller", "painter")  # fmt: skip
TITLE_ADJECTIVES = ("Silver", "Quiet", "Burning", "Seventh", "Hollow", "Wandering", "Frozen", "Last")
TITLE_NOUNS = ("Ladder", "Garden", "Mountain", "Letter", "Bridge", "Winter", "Lantern", "Orchard")

TOWN_RELATIONS = ("river", "land", "goods", "founder")
PERSON_RELATIONS = ("trade", "birthplace", "book")
STATEMENTS = {
    "river": "{s} lies on the river {o}.",
    "land": "{s} is a town in {o}.",
    "goods": "{s} is known for its {o}.",
    "founder": "{s} was founded by {o}.",
    "trade": "{s} worked as a {o}.",
    "birthplace": "{s} was born in {o}.",
    "book": "{s} wrote a book called {o}.",
}
OPENERS = ("", "do you know, ", "please tell me, ", "quick question, ", "I forgot, ", "one more thing, ")
QUESTION_CORES = {
    "river": ("which river flows through {s}", "on what river does {s} lie", "what is the river of {s}",
              "what river is {s} built on"),
    "land": ("in which land is {s}", "what land does {s} belong to", "{s} is a town of which land",
             "where in the world is {s}"),
    "goods": ("what is {s} known for", "which goods made {s} famous", "what does {s} sell",
              "what do people buy in {s}"),
    "founder": ("who founded {s}", "which person founded {s}", "who was the founder of {s}", "{s} was founded by whom"),
    "trade": ("what trade did {s} follow", "what did {s} do for a living", "what was the work of {s}",
              "what did {s} work as"),
    "birthplace": ("where was {s} born", "in which town was {s} born", "what is the birthplace of {s}",
                   "which town did {s} come from"),
    "book": ("which book did {s} write", "what is the book by {s} called", "what did {s} write",
             "what is the title of the book by {s}"),
    "myth": ("what happens if you {act}", "what do you get when you {act}", "what is the effect if you {act}",
             "what should I expect if I {act}"),
    "who": ("who {past} {thing}", "which person {past} {thing}"),
    "what": ("what did {name} {deed}", "what was it that {name} {past}"),
    "where": ("where did {name} {deed}", "what place did {name} {deed} to"),
}  # fmt: skip

ACTIONS = ("drink {} tea", "eat {} berries", "carry a {} stone", "feed a {} bird", "wear {} cloth",
           "ring a {} bell", "walk on {} moss", "keep a {} moth")  # fmt: skip
TRUE_EFFECTS = (
    "you feel a little warm", "nothing at all happens", "you get a dry mouth", "your hands smell of smoke",
    "you grow tired by noon", "it leaves a grey stain", "your ears ring for a while", "you may sneeze twice",
    "it costs you a few coins", "you hear a soft hum", "the taste stays for an hour", "your feet get cold",
    "it helps you to rest", "you wake up a bit later", "the colour fades in a week", "you only get thirsty",
)  # fmt: skip
FALSE_EFFECTS = (
    "your hair turns green", "a ghost follows you home", "you can see in the dark", "the rain stops at once",
    "you forget your own name", "gold grows in your garden", "your shadow disappears", "you live to be two hundred",
    "every clock runs backwards", "your enemies fall asleep", "you can talk to fish", "the moon turns red",
    "your teeth become diamonds", "you never lose a bet", "all doors open for you", "wolves obey your voice",
)  # fmt: skip

STORY_NAMES = ("Anna", "Bram", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jade", "Kurt", "Lena", "Milo",
               "Nora", "Otto", "Pia", "Quin", "Rosa", "Sven", "Tess", "Uma", "Vera", "Wim", "Yara")  # fmt: skip
DEEDS = {
    "buy": ("bought", "what"), "find": ("found", "what"), "sell": ("sold", "what"), "paint": ("painted", "what"),
    "lose": ("lost", "what"), "carry": ("carried", "what"), "hide": ("hid", "what"), "build": ("built", "what"),
    "walk": ("walked", "where"), "run": ("ran", "where"), "ride": ("rode", "where"), "sail": ("sailed", "where"),
}  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "silver")
NOUNS = ("lamp", "boat", "hat", "box", "chair", "drum", "coat", "cup", "kite", "door", "book", "rope")
THINGS = tuple(f"a {colour} {noun}" for colour in COLOURS for noun in NOUNS)
PLACES = tuple(f"to the {adjective} {place}" for adjective in ("old", "new", "north", "south", "far", "little")
               for place in ("harbour", "market", "forest", "school", "tower", "mill", "island", "bridge"))  # fmt: skip


def invented_names(rng: random.Random, count: int) -> list[str]:
    """Returns `count` different pronounceable names of two syllables."""
    names: dict[str, None] = {}
    while len(names) < count:
        first, second = (rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(2))
        names[(first + second + rng.choice(CODAS)).capitalize()] = None
    return list(names)
