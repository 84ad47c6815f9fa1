"""The English world of the stories: who may appear, where they live, and how a story opens."""

from dataclasses import dataclass, replace

from minideepseek.data.stories.draw import Draw

GIRLS = "Mira Lily Anna Zoe Nora Ella Ruby Grace Ivy Lucy Maya Rosa Tess Clara Hazel Wendy".split()
BOYS = "Tom Ben Sam Leo Max Oscar Finn Jack Theo Hugo Noah Peter Eddie Felix Carl Arthur".split()
FAMILIES = "Bell Stone Brook Marsh Hill Wood Lake Field Rose Frost Reed Moss Swift Vale Hart".split()
FAMILIES += "Cole Wells Page Lane Ford Snow Berry Penn Nash Fox Drew Hale Wren Dale Kerr".split()
ANIMALS = "rabbit fox mouse bear duck kitten puppy frog squirrel hedgehog".split()
PET_NAMES = "Pip Dot Bramble Biscuit Pepper Clover Nibble Button Sunny Patch".split()
NATURES = "kind shy brave curious cheerful clever quiet playful dreamy gentle".split()


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


def person(name: str, noun: str, *, female: bool) -> Person:
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
    spots: tuple[str, ...]
    treasures: tuple[str, ...]
    animals: tuple[str, ...]
    pastime: str
    hazard: str


SETTINGS = (
    Setting(
        home="in a white house by the sea",
        place="the beach",
        spots=("behind a wet rock", "under an old boat", "between two big shells", "in a hole in the sand"),
        treasures=("a shiny shell", "a smooth blue stone", "a piece of green glass"),
        animals=("crab", "seagull", "seal", "turtle"),
        pastime="build a castle of sand",
        hazard="a big wave",
    ),
    Setting(
        home="at the edge of the forest",
        place="the forest",
        spots=("under a pile of leaves", "behind an oak tree", "in a hollow log", "beside the mushrooms"),
        treasures=("a golden leaf", "a round acorn", "a long feather"),
        animals=("owl", "deer", "squirrel", "hedgehog"),
        pastime="collect acorns",
        hazard="a falling branch",
    ),
    Setting(
        home="on a farm behind the hill",
        place="the meadow",
        spots=("behind the barn", "under the hay", "next to the fence", "in the tall grass"),
        treasures=("a white egg", "a lucky clover", "an old horseshoe"),
        animals=("lamb", "goat", "hen", "pony"),
        pastime="pick flowers",
        hazard="an angry goose",
    ),
    Setting(
        home="in a small house near the river",
        place="the river",
        spots=("under the bridge", "behind the reeds", "between the roots of a willow", "on a flat stone"),
        treasures=("a silver fish hook", "a round pebble", "a little paper boat"),
        animals=("duck", "frog", "otter", "swan"),
        pastime="sail paper boats",
        hazard="a slippery stone",
    ),
    Setting(
        home="in a village on the mountain",
        place="the mountain path",
        spots=("behind a snowy bush", "in a small cave", "under a pine tree", "beside the wooden gate"),
        treasures=("a clear crystal", "a pine cone", "a little bell"),
        animals=("goat", "eagle", "marmot", "fox"),
        pastime="slide down the snow",
        hazard="a rolling stone",
    ),
    Setting(
        home="in the middle of a busy town",
        place="the park",
        spots=("under a green bench", "behind the fountain", "near the swings", "in a flower bed"),
        treasures=("a shiny coin", "a yellow button", "a lost key"),
        animals=("cat", "pigeon", "puppy", "squirrel"),
        pastime="ride on the swings",
        hazard="a fast bicycle",
    ),
)

WEATHER = (
    ("One sunny morning", "the sky was blue"),
    ("One windy day", "the leaves danced in the air"),
    ("One cold morning", "there was ice on the windows"),
    ("One warm afternoon", "the bees were humming"),
    ("One quiet evening", "the sun was going down"),
    ("One day in spring", "the first flowers were open"),
    ("One day in autumn", "the trees were red and gold"),
    ("One rainy day", "there were puddles everywhere"),
)


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def opening(draw: Draw, hero: Person, setting: Setting, facts: str) -> str:
    """Who it is about and where; the facts to remember take the place of the address."""
    nature = draw.pick(NATURES)
    first = draw.pick(
        (
            f"Once upon a time there was {a(nature)} {hero.noun} named {hero.full}.",
            f"There once was {a(nature)} little {hero.noun} called {hero.full}.",
            f"{hero.full} was {a(nature)} {hero.noun}.",
            f"This is the story of {hero.full}, {a(nature)} {hero.noun}.",
        )
    )
    return f"{first} {facts or f'{hero.He} lived {setting.home}.'}"
