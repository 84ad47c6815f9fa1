"""The English world of the stories: who may appear, and where."""

from dataclasses import dataclass, replace

from minideepseek.data.stories.draw import Draw
from minideepseek.data.stories.grammar import table, template

GIRLS = "Mira Lily Anna Zoe Nora Ella Ruby Grace Ivy Lucy Maya Rosa Tess Clara Hazel Wendy".split()
BOYS = "Tom Ben Sam Leo Max Oscar Finn Jack Theo Hugo Noah Peter Eddie Felix Carl Arthur".split()
FAMILIES = "Bell Stone Brook Marsh Hill Wood Lake Field Rose Frost Reed Moss Swift Vale Hart".split()
FAMILIES += "Cole Wells Page Lane Ford Snow Berry Penn Nash Fox Drew Hale Wren Dale Kerr".split()
ANIMALS = "rabbit fox mouse bear duck kitten puppy frog squirrel hedgehog".split()
PET_NAMES = "Pip Dot Bramble Biscuit Pepper Clover Nibble Button Sunny Patch".split()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a story, with the pronouns that go with the name. full: the name by which facts are remembered."""

    name: str
    full: str
    noun: str
    he: str
    him: str
    his: str
    He: str

    def __str__(self) -> str:
        return self.name


def person(name: str, noun: str, *, female: bool) -> Person:
    """Somebody a story is about, with the pronouns that go with them."""
    he, him, his = ("she", "her", "her") if female else ("he", "him", "his")
    return Person(name, name, noun, he, him, his, he.capitalize())


CHILDREN = [person(name, "girl", female=True) for name in GIRLS] + [person(name, "boy", female=False) for name in BOYS]
CREATURES = [
    person(name, animal, female=bool((i + j) % 2))
    for i, animal in enumerate(ANIMALS)
    for j, name in enumerate(PET_NAMES)
]
FACT_PEOPLE = [
    replace(child, full=f"{child.name} {FAMILIES[(i + turn) % len(FAMILIES)]}")
    for turn in range(len(FAMILIES))
    for i, child in enumerate(CHILDREN)
]


@dataclass(frozen=True, slots=True)
class Setting:
    """A corner of the world. Its things belong together: shells lie on a beach, acorns in a forest."""

    home: str
    place: str
    at: str
    pastime: str
    hazard: str
    spots: tuple[str, ...]
    treasures: tuple[str, ...]
    animals: tuple[str, ...]


SETTINGS = (
    Setting(
        home="in a white house by the sea",
        place="the beach",
        at="on the beach",
        pastime="build a castle of sand",
        hazard="a big wave",
        spots=("behind a wet rock", "under an old boat", "between two big shells", "in a hole in the sand"),
        treasures=("a shiny shell", "a smooth blue stone", "a piece of green glass"),
        animals=("a crab", "a seagull", "a seal", "a turtle"),
    ),
    Setting(
        home="at the edge of the forest",
        place="the forest",
        at="in the forest",
        pastime="collect acorns",
        hazard="a falling branch",
        spots=("under a pile of leaves", "behind an oak tree", "in a hollow log", "beside the mushrooms"),
        treasures=("a golden leaf", "a round acorn", "a long feather"),
        animals=("an owl", "a deer", "a squirrel", "a hedgehog"),
    ),
    Setting(
        home="on a farm behind the hill",
        place="the meadow",
        at="in the meadow",
        pastime="pick flowers",
        hazard="an angry goose",
        spots=("behind the barn", "under the hay", "next to the fence", "in the tall grass"),
        treasures=("a white egg", "a lucky clover", "an old horseshoe"),
        animals=("a lamb", "a goat", "a hen", "a pony"),
    ),
    Setting(
        home="in a small house near the river",
        place="the river",
        at="by the river",
        pastime="sail paper boats",
        hazard="a slippery stone",
        spots=("under the bridge", "behind the reeds", "between the roots of a willow", "on a flat stone"),
        treasures=("a silver fish hook", "a round pebble", "a little paper boat"),
        animals=("a duck", "a frog", "an otter", "a swan"),
    ),
    Setting(
        home="in a village on the mountain",
        place="the mountain path",
        at="on the mountain path",
        pastime="look for crystals",
        hazard="a rolling stone",
        spots=("behind a thorn bush", "in a small cave", "under a pine tree", "beside the wooden gate"),
        treasures=("a clear crystal", "a pine cone", "a little bell"),
        animals=("a goat", "an eagle", "a marmot", "a fox"),
    ),
    Setting(
        home="in the middle of a busy town",
        place="the park",
        at="in the park",
        pastime="play on the swings",
        hazard="a fast bicycle",
        spots=("under a green bench", "behind the fountain", "near the swings", "in a flower bed"),
        treasures=("a shiny coin", "a yellow button", "a lost key"),
        animals=("a cat", "a pigeon", "a puppy", "a squirrel"),
    ),
)

WEATHER = table(
    "day sky",
    ("One sunny morning", "The sky was blue"),
    ("One windy day", "The leaves danced in the air"),
    ("One cold morning", "There was ice on the windows"),
    ("One warm afternoon", "The bees were humming"),
    ("One quiet evening", "The sun was going down"),
    ("One day in spring", "The first flowers were open"),
    ("One day in autumn", "The trees were red and gold"),
)
GROWN_UPS = table(
    "elder elder_she elder_her",
    ("mother", "she", "her"),
    ("father", "he", "him"),
    ("grandmother", "she", "her"),
    ("grandfather", "he", "him"),
    ("uncle", "he", "him"),
    ("aunt", "she", "her"),
)
COLOURS = table("colour", *"red blue green yellow white purple striped golden".split())
TOYS = table("toy", *"ball kite drum boat doll whistle hat scarf".split())

BLANK = " "
OPENING = template(
    """
    [Once upon a time there was {nature} {hero.noun} named {hero.full}.|There once was {nature} little {hero.noun}
    called {hero.full}.|{hero.full} was {nature} {hero.noun}.|This is the story of {hero.full}, {nature} {hero.noun}.]
    {about}
    """,
    blank=BLANK,
)
ADDRESS = "{hero.He} lived {home}."
NATURES = "kind shy brave curious cheerful clever quiet playful dreamy gentle".split()


def scenery(draw: Draw, hero: Person, friend: Person) -> dict[str, object]:
    """The slots that every plot may use: the two people, a setting and the things in it."""
    setting = draw.pick(SETTINGS)
    spot, wrong_spot = draw.two(setting.spots)
    an_animal = draw.pick(setting.animals)
    while an_animal.endswith(hero.noun):  # a frog that meets "a frog" would be a riddle
        an_animal = draw.pick(setting.animals)
    return {
        "hero": hero,
        "friend": friend,
        "nature": f"a {draw.pick(NATURES)}",
        "home": setting.home,
        "place": setting.place,
        "at": setting.at,
        "pastime": setting.pastime,
        "hazard": setting.hazard,
        "spot": spot,
        "wrong_spot": wrong_spot,
        "treasure": draw.pick(setting.treasures),
        "an_animal": an_animal,
        "An_animal": an_animal.capitalize(),
        "animal": an_animal.split()[1],
    }
