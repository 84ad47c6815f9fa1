"""English plots: what happens, why, what is said about it, and how it ends. One function each.

A plot is a chain of causes: whatever a later sentence relies on is chosen once, above, and kept.
"""

from minideepseek.data.stories.draw import Draw
from minideepseek.data.stories.english import WEATHER, Person, Setting, a

Scene = tuple[Draw, Person, Person, Setting]
Paragraphs = tuple[str, ...]

COLOURS = "red blue green yellow white purple orange golden".split()
TOYS = "ball kite drum boat doll whistle hat scarf".split()
GROWN_UPS = (("mother", "she", "her"), ("father", "he", "him"), ("grandmother", "she", "her"), ("uncle", "he", "him"))


def lost_and_found(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    day, sky = draw.pick(WEATHER)
    colour, toy = draw.pick(COLOURS), draw.pick(TOYS)
    wrong, right = draw.two(setting.spots)
    animal = draw.pick(setting.animals)
    thing = f"{colour} {toy}"
    return (
        f"{day} {hero.name} took {hero.his} {thing} to {setting.place}. {sky.capitalize()}. "
        + draw.pick(
            (
                f"But when it was time to go home, the {toy} was gone!",
                f"{hero.He} stopped to {setting.pastime}, and when {hero.he} looked up, the {toy} was gone!",
                f"{hero.He} fell asleep for a while. When {hero.he} woke up, {hero.he} could not find the {toy}.",
            )
        ),
        f"{hero.name} {draw.pick(('began to cry', 'felt very sad', 'did not know what to do'))}. "
        + f'"Have you seen my {toy}?" {hero.he} asked {friend.name}. "No," said {friend.name}, '
        + f'"but I will help you look for it." They looked {wrong}, but it was not there. '
        + draw.pick(
            (
                f"Then {a(animal)} came along and looked {right}. There it was!",
                f"Then they heard {a(animal)}. It was sitting {right}, right next to the {thing}!",
                f"Then they looked {right}, and there was the {thing}! {a(animal).capitalize()} was sleeping on it.",
            )
        ),
        draw.pick(
            (
                f'"Thank you for helping me," said {hero.name}. From then on {hero.he} took good care of the {toy}.',
                f"{hero.name} was so happy that {hero.he} hugged {friend.name}. Then they played with the {toy} together.",
                f'"Two can find more than one," said {friend.name}, and they laughed all the way home.',
            )
        ),
    )


TROUBLES = (
    ("was stuck in the mud", "pulled it out with a long stick", "muddy"),
    ("had a thorn in its foot", "took the thorn out very slowly", "sore"),
    ("was caught in an old net", "cut the net with a sharp stone", "tired"),
    ("had fallen into a deep hole", "made a little ladder of branches", "frightened"),
    ("was shaking from the cold", "wrapped it in a warm scarf", "cold"),
    ("had not eaten for two days", "shared some bread with it", "hungry"),
)


def animal_in_need(scene: Scene) -> Paragraphs:
    draw, hero, _, setting = scene
    day, sky = draw.pick(WEATHER)
    trouble, help_, state = draw.pick(TROUBLES)
    animal = draw.pick(setting.animals)
    treasure = draw.pick(setting.treasures)
    return (
        f"{day} {hero.name} went to {setting.place} to {setting.pastime}. "
        + f"{hero.He} heard a {draw.pick(('small', 'strange', 'sad', 'soft'))} sound. "
        + f"It was {a(animal)}! The poor {animal} {trouble}.",
        draw.pick(
            (
                f'"Do not be afraid," said {hero.name}. "I will help you." {hero.He} {help_}.',
                f'"Please help me," said the {animal}. {hero.name} did not wait. {hero.He} {help_}.',
                f'"You look so {state}," said {hero.name}. Then {hero.he} {help_}.',
            )
        )
        + f" Soon the {animal} felt {draw.pick(('much better', 'safe again', 'well and happy'))}.",
        draw.pick(
            (
                f"The next day the {animal} came back with {treasure}. It was a gift for {hero.name}!",
                f"Some days later {setting.hazard} almost hit {hero.name}, but the {animal} cried out just in time. "
                f"Now {hero.name} was saved too.",
                f"After that, {hero.name} and the {animal} met every day. They were best friends.",
            )
        )
        + draw.pick(("", " One good deed brings another.", f" {hero.name} never forgot that day.")),
    )


DISHES = (
    ("an apple cake", "apples", "honey"),
    ("a pot of soup", "carrots", "salt"),
    ("a berry pie", "berries", "flour"),
    ("some sweet bread", "nuts", "butter"),
    ("a big pancake", "eggs", "milk"),
)


def baking(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    dish, first, missing = draw.pick(DISHES)
    who, she, her = draw.pick(GROWN_UPS)
    food = dish.split()[-1]
    return (
        f"It was the birthday of {hero.name}'s {who}. {hero.name} wanted to make {dish} for {her}. "
        + f"There were enough {first} in the kitchen, but there was no {missing}. "
        + draw.pick((f'"Oh no!" said {hero.name}.', f'"What can I do now?" {hero.he} asked.')),
        f"So {hero.he} ran to {friend.name}. "
        + f'"Can you give me some {missing}?" "Yes," said {friend.name}, '
        + draw.pick(
            (
                f'"if you help me carry the wood." They carried the wood together, and {friend.name} gave {hero.him} '
                f"the {missing}.",
                f'"if I can help you with the {food}." So they worked side by side.',
                f'"you gave me {first} last week, so I am happy to help." And {friend.he} filled a jar with {missing}.',
            )
        ),
        draw.pick(
            (
                f"In the evening the whole house smelled good. The {who} took a bite and smiled. "
                f'"This is the best {food} I have ever had," {she} said.',
                f"The {food} was a little burnt, and {hero.name} was worried. But the {who} ate it all. "
                f'"You made it with love," {she} said.',
                f"When the {who} came home, the {food} was on the table. {she.capitalize()} was so surprised that "
                f"{she} began to dance.",
            )
        ),
    )


def quarrel(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    toy, colour = draw.pick(TOYS[:6]), draw.pick(COLOURS)
    day, _ = draw.pick(WEATHER)
    return (
        f"{day} {hero.name} and {friend.name} were playing at {setting.place.removeprefix('the ')}."
        if setting.place == "the park"
        else f"{day} {hero.name} and {friend.name} were playing near {setting.place}.",
        f"They found a {colour} {toy} {draw.pick(setting.spots)}. "
        + f'"It is mine!" said {hero.name}. "No, I saw it first!" said {friend.name}. '
        + draw.pick(
            (
                f"They both pulled, and the {toy} broke. Now nobody could play with it.",
                "They both pulled so hard that they fell into a puddle. Now they were wet and angry.",
                f"{friend.name} took the {toy} and ran away. {hero.name} sat down and cried.",
            )
        ),
        draw.pick(
            (
                f'After a while {hero.name} said, "I am sorry. You are more important than a {toy}."',
                f'After a while {friend.name} came back and said, "I am sorry. It is no fun to play alone."',
                f"They sat in silence for a long time. Then {hero.name} looked at {friend.name}, and both began to laugh.",
            )
        )
        + draw.pick(
            (
                " So they took turns, and the afternoon was twice as nice.",
                " So they made a new game that needed two players.",
                " From that day on they shared all their toys.",
            )
        ),
    )


PLANTS = (
    ("sunflower", "as tall as the house", "gave seeds to the birds"),
    ("pumpkin", "as big as a chair", "made soup for everyone"),
    ("apple tree", "full of red apples", "filled a basket for the neighbours"),
    ("bean", "so long that it reached the roof", "cooked the beans for dinner"),
    ("rose", "full of pink flowers", "gave one flower to every visitor"),
)


def growing(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    plant, size, use = draw.pick(PLANTS)
    who, she, _ = draw.pick(GROWN_UPS)
    return (
        f"In spring {hero.name}'s {who} gave {hero.him} a tiny seed. "
        + f'"What will it be?" asked {hero.name}. "Wait and see," said the {who}. '
        + f"{hero.name} put the seed into the earth and gave it water every day.",
        "For a long time nothing happened. "
        + draw.pick(
            (
                f'"Maybe it is dead," said {friend.name}. But {hero.name} did not give up.',
                f'{hero.name} wanted to dig it out. "Be patient," said the {who}.',
                f"Then it did not rain for weeks, so {hero.name} carried water from the well.",
            )
        )
        + f" At last a small green leaf came out. It grew and grew. It was {a(plant)}!",
        f"In summer the {plant} was {size}. {hero.name} and {friend.name} {use}. "
        + draw.pick(
            (
                f'"Good things need time," {she} said.',
                f"{hero.name} kept one seed for the next year.",
                f"Everyone said that {hero.name} was a real gardener.",
            )
        ).replace(f"{she} said", f"said the {who}"),
    )


FEARS = (
    (
        "the dark",
        "the lamp went out",
        "held {friend}'s hand and walked to the door step by step",
        "the dark is only night",
    ),
    ("deep water", "{friend} fell into the pond", "jumped in and pulled {friend} out", "the water carried me"),
    ("big dogs", "a big dog stood in the way", "stood still and spoke to it softly", "the dog only wanted to play"),
    (
        "thunder",
        "a storm came and {friend} was alone outside",
        "ran out into the rain and brought {friend} home",
        "thunder is just loud",
    ),
    (
        "high places",
        "{friend}'s cat could not come down from the roof",
        "climbed up the ladder and took the cat in one arm",
        "I looked at the cat and not at the ground",
    ),
)


def courage(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    fear, event, deed, insight = (part.format(friend=friend.name) for part in draw.pick(FEARS))
    day, sky = draw.pick(WEATHER)
    return (
        f"There was one thing that {hero.name} did not like: {hero.he} was afraid of {fear}. "
        + draw.pick(
            (
                f"The others sometimes laughed at {hero.him}.",
                f'"One day you will be brave," said {hero.his} {draw.pick(GROWN_UPS)[0]}.',
                f"{hero.He} never told anyone about it.",
            )
        ),
        f"{day}, when {sky}, {event}. "
        + f"{hero.name}'s heart {draw.pick(('beat fast', 'jumped', 'was as loud as a drum'))}. "
        + draw.pick(
            (f'"I must do it," {hero.he} said.', f'"Now or never," {hero.he} thought.', "There was no time to think.")
        )
        + f" {hero.He} {deed}.",
        draw.pick(
            (
                f'"You were so brave!" said {friend.name}. "I was afraid," said {hero.name}, "but {insight}."',
                f'"Are you not afraid of {fear}?" asked {friend.name}. "Not any more," said {hero.name}. "{insight[0].upper() + insight[1:]}."',
                f"That night {hero.name} slept well. To be brave does not mean to have no fear.",
            )
        ),
    )


ACCIDENTS = (
    ("broke the blue vase", "hid the pieces under the bed", "bought glue, and they mended it together"),
    ("ate the whole cake", "blamed the cat", "baked a new one with {him}"),
    ("spilled ink on the letter", "put the letter into the fire", "wrote a new letter with {him}"),
    ("lost the key of the garden", "said nothing at all", "made a new key and put it on a string"),
    ("tore the new coat", "put it at the back of the closet", "showed {him} how to sew"),
)


def honesty(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    mishap, cover, mend = (part.format(him=hero.him) for part in draw.pick(ACCIDENTS))
    who, she, _ = draw.pick(GROWN_UPS)
    day, _ = draw.pick(WEATHER)
    return (
        f"{day} {hero.name} was alone at home. {hero.He} {draw.pick(('was playing', 'was dancing', 'was not careful'))} "
        + f"and {mishap}. {hero.name} was so scared that {hero.he} {cover}.",
        f"At dinner {hero.he} could not eat. "
        + draw.pick(
            (
                f'"What is wrong?" asked {hero.his} {who}.',
                f'"You are so quiet today," said {hero.his} {who}.',
                f'"You should tell the truth," {friend.name} had said.',
            )
        )
        + f' {hero.name} took a deep breath. "It was me. I {mishap}. I am sorry."',
        f"The {who} was {draw.pick(('not angry', 'silent for a moment, and then smiled'))}. "
        + f'"Thank you for telling me," {she} said. Then {she} {mend}. '
        + draw.pick(
            (
                "The truth made everything lighter.",
                f"{hero.name} felt as light as a feather.",
                f"And {hero.name} could eat again.",
            )
        ),
    )


def race(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    day, sky = draw.pick(WEATHER)
    prize = draw.pick(("a basket of pears", "a silver cup", "a big cake", "a new sled", "a flag"))
    return (
        f"{day} there was a race to {setting.place} and back. The prize was {prize}. "
        + f'"I will win, because I am the fastest," said {friend.name}. {hero.name} {draw.pick(("said nothing", "only smiled", f"tied {hero.his} shoes"))}.',
        f"They ran. {friend.name} was far in front. "
        + draw.pick(
            (
                f"But then {friend.name} slipped and hurt {friend.his} knee.",
                f"But {friend.name} took the wrong way and got lost.",
                f"But because of {setting.hazard} {friend.name} fell to the ground.",
            )
        )
        + f" {hero.name} could have won now. Instead {hero.he} stopped and {draw.pick(('helped', 'called', 'waited for'))} {friend.name}."
        + " They came in last, side by side.",
        draw.pick(
            (
                f'"Why did you stop?" asked {friend.name}. "A friend is better than {prize}," said {hero.name}.',
                f"But everyone cheered for them, and the winner shared {prize} with both.",
                f'"Next time I will not boast," said {friend.name}. "Next time we will both run well," said {hero.name}.',
            )
        ),
    )


SOUNDS = (
    ("tap, tap, tap", "a branch at the window", "cut the branch"),
    ("squeak, squeak", "a tiny mouse that was looking for cheese", "gave it a piece of cheese"),
    ("hoo, hoo", "an owl that had lost its way", "opened the window for it"),
    ("drip, drip, drip", "a hole in the roof", "put a bucket under it"),
    ("scratch, scratch", "a kitten that wanted to come in", "let it in"),
)


def night_noise(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    sound, cause, remedy = draw.pick(SOUNDS)
    monster = draw.pick(("a monster", "a ghost", "a thief", "a dragon"))
    return (
        f"One night {hero.name} could not sleep. {sound.capitalize()}, it went in the dark. "
        + f'"It is {monster}!" thought {hero.name} and {draw.pick(("hid under the blanket", "held the pillow tight", "did not dare to move"))}.',
        draw.pick(
            (
                f"{friend.name}, who was staying for the night, woke up too.",
                f"{hero.He} woke up {friend.name}, who was sleeping in the next room.",
            )
        )
        + f' "Let us look together," said {friend.name}. They took a {draw.pick(("lamp", "candle", "broom"))} and walked '
        + f"on the tips of their toes. {sound.capitalize()}! It came closer. {hero.name} opened the door. It was not {monster}. "
        + f"It was only {cause}!",
        f"They {draw.pick(('laughed and laughed', 'looked at each other and laughed'))}. Then they {remedy}. "
        + draw.pick(
            (
                f"After that {hero.name} slept until noon.",
                "Things are smaller when you look at them.",
                f'"Good night, {monster.split()[1]}," said {hero.name}.',
            )
        ),
    )


SWAPS = (
    ("an egg", "a ball of string", "a hen", "loved eggs"),
    ("a ball of string", "a paper lantern", "a weaver", "needed string"),
    ("a jar of jam", "a wooden flute", "a shepherd", "had only dry bread"),
    ("a warm hat", "a little cart", "an old farmer", "had cold ears"),
    ("a bag of nuts", "a red umbrella", "a sailor", "was very hungry"),
    ("a candle", "a book of songs", "a miller", "sat in the dark"),
)


def trading(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    give, get, trader, reason = draw.pick(SWAPS[1:])
    who = draw.pick(GROWN_UPS)[0]
    thing, good = give.split()[-1], get.split(maxsplit=1)[1]
    return (
        f"{hero.name}'s {who} gave {hero.him} {give} to sell at the market. "
        + f"On the way {hero.he} met {trader} who {reason}. "
        + draw.pick(
            (
                f'"Will you give it to me for {get}?" asked the man.',
                f'"I have no money," said the man, "but I have {get}."',
            )
        )
        + f" {hero.name} {draw.pick(('thought for a while', 'felt sorry for him'))} and said yes.",
        f'"You gave away {give} for {get}?" said {friend.name}. "How silly!" '
        + draw.pick(
            (
                f"But at {setting.place.removeprefix('the ') if setting.place == 'the market' else 'the market'} everyone wanted to see the {good}.",
                f"But just then a rich lady came by. She had been looking for {get} for years.",
                f"But then it turned out that the {good} was very old and rare.",
            )
        )
        + f" {hero.name} sold it for three coins.",
        f"{hero.He} bought {draw.pick(('bread and cheese', 'a new pair of boots', 'a present for the whole family'))} and went home. "
        + draw.pick(
            (
                f"The {who} was proud of {hero.him}.",
                f'"A kind heart is good at trading," said the {who}.',
                f"And the man with the {thing} was happy too.",
            )
        ),
    )


PLOTS = (
    lost_and_found,
    animal_in_need,
    baking,
    quarrel,
    growing,
    courage,
    honesty,
    race,
    night_noise,
    trading,
)
