"""English plots: what happens, why, what is said about it, and how it ends. See `grammar.py` for the notation."""

from minideepseek.data.stories.english import BLANK, COLOURS, GROWN_UPS, TOYS, WEATHER
from minideepseek.data.stories.grammar import Plot, Table, table, template


def plot(prose: str, *tables: Table) -> Plot:
    """A plot from its prose and the tables its slots are filled from."""
    return Plot(template(prose, blank=BLANK), tables)


LOST_AND_FOUND = plot(
    """
    {day} {hero} took {hero.his} {colour} {toy} to {place}. {sky}. [But when it was time to go home, the {toy} was
    gone!|{hero.He} stopped to {pastime}, and when {hero.he} looked up, the {toy} was gone!|{hero.He} fell asleep for
    a while, and when {hero.he} woke up, the {toy} was gone!]

    {hero} [began to cry|felt very sad|did not know what to do]. "Have you seen my {toy}?" {hero.he} asked {friend}.
    "No," said {friend}, "but I will help you look for it." [First they looked|They looked] {wrong_spot}, but it was
    not there. [Then {an_animal} came along and looked {spot}. There it was!|Then they heard {an_animal}. It was sitting
    {spot}, right next to the {colour} {toy}!|Then they looked {spot}, and there was the {toy}! {An_animal} was sleeping
    next to it.]

    ["Thank you for helping me," said {hero}. From then on {hero.he} took good care of the {toy}.|{hero} was so happy
    that {hero.he} hugged {friend}. Then they played with the {toy} together.|"Four eyes see more than two," said
    {friend}, and they laughed all the way home.]
    """,
    WEATHER,
    COLOURS,
    TOYS,
)

ANIMAL_IN_NEED = plot(
    """
    {day} {hero} went to {place} to {pastime}. {hero.He} heard a [small|strange|sad|soft] sound. It was {an_animal}!
    The poor {animal} {trouble}.

    ["Do not be afraid," said {hero}. "I will help you." {hero.He} {help}.|"Please help me," said the {animal}. {hero}
    did not wait. {hero.He} {help}.|"You look so {state}," said {hero}. Then {hero.he} {help}.] Soon the {animal} felt
    [much better|safe again|well and happy].

    [The next day the {animal} came back with {treasure}. It was a gift for {hero}!|Some days later {hazard} almost hit
    {hero}, but the {animal} cried out just in time. Now {hero} was saved too.|After that, {hero} and the {animal} met
    every day. They were best friends.] [One good deed brings another.|{hero} never forgot that day.|Kindness is never
    lost.]
    """,
    WEATHER,
    table(
        "trouble help state",
        ("was stuck in the mud", "pulled it out with a long stick", "muddy"),
        ("had a thorn in its foot", "took the thorn out very slowly", "hurt"),
        ("was caught in an old net", "cut the net with a sharp stone", "tired"),
        ("had fallen into a deep hole", "made a little ladder of branches", "frightened"),
        ("was shaking from the cold", "wrapped it in a warm scarf", "cold"),
        ("had not eaten for two days", "shared some bread with it", "hungry"),
    ),
)

BIRTHDAY_DISH = plot(
    """
    It was the birthday of {hero}'s {elder}. {hero} wanted to make {dish} for {elder_her}. There {enough} in the
    kitchen, but there was no {missing}. ["Oh no!" said {hero}.|"What can I do now?" asked {hero}.|{hero} looked
    everywhere, but the jar was empty.]

    So {hero.he} ran to {friend}. "Can you give me some {missing}?" "Yes," said {friend}, ["if you help me carry the
    wood." They carried the wood together, and then {hero} got the {missing}.|"if you let me help with the {food}." So
    they worked side by side.|"because you helped me last week." And {friend} filled a jar with {missing}.]

    [In the evening the whole house smelled good. The {elder} took a bite and smiled. "This is the best {food} I have
    ever had," {elder_she} said.|The {food} was {flaw}, and {hero} was worried. But the {elder} ate it all. "You
    made it with love," {elder_she} said.|When the {elder} came home, the {food} was on the table. "For me?" asked the
    {elder}, and {elder_she} was so happy that {elder_she} began to dance.]
    """,
    GROWN_UPS,
    table(
        "dish food enough missing flaw",
        ("an apple cake", "cake", "were enough apples", "honey", "a little burnt"),
        ("a pot of soup", "soup", "were enough carrots", "salt", "much too salty"),
        ("a berry pie", "pie", "were enough berries", "flour", "a little flat"),
        ("some sweet bread", "bread", "was enough flour", "butter", "a little hard"),
        ("a big pancake", "pancake", "were enough eggs", "milk", "a little burnt"),
    ),
)

QUARREL = plot(
    """
    {day} {hero} and {friend} were playing {at}. {sky}.

    They found a {colour} {toy} {spot}. "It is mine!" said {hero}. "No, I saw it first!" said {friend}. [They both
    pulled, and the {toy} broke. Now nobody could play with it.|They both pulled so hard that they fell into a puddle.
    Now they were wet and angry.|{friend} took the {toy} and ran away. {hero} sat down and cried.]

    [After a while {hero} said, "I am sorry. You are more important than a {toy}."|After a while {friend} said, "I am
    sorry. It is no fun to play alone."|They did not speak for a long time. Then they looked at each other, and both
    began to laugh.] [So they took turns, and the day was twice as nice.|So they made up a new game that needed two
    players.|From that day on they shared all their toys.]
    """,
    WEATHER,
    COLOURS,
    TOYS,
)

GROWING = plot(
    """
    In spring {hero}'s {elder} gave {hero.him} a tiny seed. "What will it be?" asked {hero}. "Wait and see," said the
    {elder}. {hero} put the seed into the earth and gave it water every day.

    For a long time nothing happened. ["Maybe it is dead," said {friend}. But {hero} did not give up.|{hero} wanted to
    dig it out. "Be patient," said the {elder}.|Then it did not rain for weeks, so {hero} carried water from the well.]
    At last a small green leaf came out. It grew and grew. It was a {plant}!

    In summer the {plant} was {size}. {hero} and {friend} {use}. ["Good things need time," said the {elder}.|{hero} kept
    one seed for the next year.|Everyone said that {hero} was a real gardener.]
    """,
    GROWN_UPS,
    table(
        "plant size use",
        ("sunflower", "as tall as the house", "gave the seeds to the birds"),
        ("pumpkin", "as big as a chair", "made soup for everyone"),
        ("cherry tree", "full of red cherries", "filled a basket for the neighbours"),
        ("bean", "so long that it reached the roof", "cooked the beans for dinner"),
        ("rose", "full of pink flowers", "gave one flower to every visitor"),
    ),
)

COURAGE = plot(
    """
    There was one thing that {hero} did not like: {hero.he} was afraid of {fear}. [The others sometimes laughed at
    {hero.him}.|"One day you will be brave," said {hero.his} {elder}.|{hero.He} never told anyone about it.]

    {event}. {hero}'s heart [beat fast|jumped|was as loud as a drum]. ["I must do it," {hero.he} said.|"Now or never,"
    {hero.he} thought.|There was no time to think.] {hero.He} {deed}.

    ["You were so brave!" said {friend}. "I was afraid," said {hero}, "but {insight}."|"Are you not afraid of {fear}?"
    asked {friend}. "Not any more," said {hero}, "because {insight}."|That night {hero} slept well. To be brave does not
    mean to have no fear.]
    """,
    GROWN_UPS,
    table(
        "fear event deed insight",
        (
            "the dark",
            "One evening the lamp went out while {friend} was visiting",
            "took {friend}'s hand and walked to the door step by step",
            "the dark is only night",
        ),
        (
            "deep water",
            "One hot day {friend} fell into the pond",
            "jumped in and pulled {friend} out",
            "the water carried me",
        ),
        (
            "big dogs",
            "One day a big dog ran up to {friend} and barked",
            "stood in front of {friend} and spoke to the dog softly",
            "the dog only wanted to play",
        ),
        (
            "thunder",
            "One night a storm came while {friend} was alone outside",
            "ran out into the rain and brought {friend} home",
            "thunder is just loud",
        ),
        (
            "high places",
            "One morning {friend}'s cat could not come down from the roof",
            "climbed up the ladder and took the cat in one arm",
            "I looked at the cat and not at the ground",
        ),
    ),
)

HONESTY = plot(
    """
    {day} {hero} was alone at home. {hero.He} [was playing|was dancing|was not careful] and {mishap}. {hero} was so
    scared that {hero.he} {cover}.

    At dinner {hero.he} could not eat. ["What is wrong?" asked {hero.his} {elder}.|"You are so quiet today," said
    {hero.his} {elder}.|{hero.He} remembered what {friend} always said: "Tell the truth."] {hero} took a deep breath.
    "It was me. I {mishap}. I am sorry."

    {hero}'s {elder} [was not angry|was silent for a moment and then smiled]. "Thank you for telling me," {elder_she}
    said. Then {elder_she} {mend}. [The truth made everything lighter.|{hero} felt as light as a feather.|And {hero}
    could eat again.]
    """,
    WEATHER,
    GROWN_UPS,
    table(
        "mishap cover mend",
        ("broke the blue vase", "hid the pieces under the bed", "brought glue, and they mended it together"),
        ("ate the whole cake", "blamed the cat", "baked a new one with {hero.him}"),
        ("spilled ink on a letter", "hid the letter in a drawer", "wrote a new letter with {hero.him}"),
        ("lost the key of the garden", "said nothing at all", "made a new key and put it on a string"),
        ("tore the new coat", "put it at the back of the closet", "showed {hero.him} how to sew"),
    ),
)

RACE = plot(
    """
    {day} there was a race to {place} and back. The prize was {prize}. "I will win, because I am the fastest," said
    {friend}. {hero} [said nothing|only smiled|tied {hero.his} shoes].

    They ran, and {friend} was far in front. [But then {friend} slipped and hurt {friend.his} knee.|But {friend} took
    the wrong way and got lost.|But because of {hazard} {friend} fell to the ground.] {hero} could have won now. Instead
    {hero.he} [stopped and helped {friend}|called {friend} and waited|took {friend} by the hand]. They came in last,
    side by side.

    ["Why did you stop?" asked {friend}. "A friend is better than {prize}," said {hero}.|But everyone cheered for them,
    and the winner shared the prize with both.|"Next time I will not boast," said {friend}. "Next time we will both run
    well," said {hero}.]
    """,
    WEATHER,
    table("prize", "a basket of pears", "a silver cup", "a big cake", "a new sled", "a golden flag"),
)

NIGHT_NOISE = plot(
    """
    One night {hero} could not sleep. {sound}, it went in the dark. "It is a {monster}!" thought {hero} and [hid under
    the blanket|held the pillow tight|did not dare to move].

    [{friend}, who was staying for the night, woke up too.|{hero.He} woke up {friend}, who was sleeping in the next
    room.] "Let us look together," said {friend}. They took a [lamp|candle|broom] and walked on the tips of their toes.
    {sound}! It came closer. {hero} opened the door. It was not a {monster}. It was only {cause}!

    They [laughed and laughed|looked at each other and laughed]. Then they {remedy}. [After that {hero} slept until
    noon.|Things are smaller when you look at them.|"Good night, {monster}," said {hero}.]
    """,
    table(
        "sound cause remedy",
        ("Tap, tap, tap", "a branch at the window", "cut the branch"),
        ("Squeak, squeak", "a tiny mouse that was looking for cheese", "gave it a piece of cheese"),
        ("Hoo, hoo", "an owl that had lost its way", "opened the window for it"),
        ("Drip, drip, drip", "a hole in the roof", "put a bucket under it"),
        ("Scratch, scratch", "a kitten that wanted to come in", "let it in"),
    ),
    table("monster", "monster", "ghost", "thief", "dragon"),
)

TRADING = plot(
    """
    {hero}'s {elder} gave {hero.him} {give} to sell at the market. On the way {hero.he} met {trader} who {need}. ["Will
    you give it to me for {get}?" asked the man.|"I have no money," said the man, "but I have {get}."] {hero} [thought
    for a while|felt sorry for him] and said yes.

    "You gave away {give} for {get}?" said {friend}. "How silly!" [But at the market everyone wanted to see {get} like
    this one.|But just then a rich lady came by. She had been looking for {get} for years.|But then a painter saw it and
    said that it was very old and rare.] {hero} sold it for three coins.

    {hero.He} bought [bread and cheese|a pair of new boots|a present for the whole family] and went home. [The {elder}
    was proud of {hero.him}.|"A kind heart is good at trading," said the {elder}.|And the man was happy too.]
    """,
    GROWN_UPS,
    table(
        "give trader need get",
        ("a ball of string", "a weaver", "needed string", "a paper lantern"),
        ("a jar of jam", "a shepherd", "had only dry bread", "a wooden flute"),
        ("a warm hat", "an old farmer", "had cold ears", "a little cart"),
        ("a bag of nuts", "a sailor", "was very hungry", "a red umbrella"),
        ("a candle", "a miller", "sat in the dark", "a book of songs"),
    ),
)

RAINY_DAY = plot(
    """
    {hero} and {friend} wanted to {pastime} {at}. They had packed {food}. But when they opened the door, it began to
    rain. [It rained and rained.|Soon there were puddles everywhere.|"Go away, rain!" shouted {friend}, but the rain did
    not listen.]

    "Now the day is ruined," said {friend}. {hero} [looked around the room|thought for a moment|had an idea]. "{idea}"
    {hero.he} said. So they {play}. [The cat wanted to play too.|{hero}'s {elder} laughed and joined them.|Outside the
    wind was howling, but inside it was warm.]

    At the end they ate {food} [on the carpet|under the table|by the window]. ["I hope that it rains again tomorrow,"
    said {friend}.|When the sun came out, they did not even notice.|It was the best rainy day ever.]
    """,
    GROWN_UPS,
    table("food", "bread and cheese", "two apples", "a bag of cookies", "some sweet plums"),
    table(
        "idea play",
        ("Let us build a ship!", "made a ship of chairs and blankets and sailed to an island"),
        ("Let us be explorers!", "took a lamp and explored every dark corner of the house"),
        ("Let us open a shop!", "put buttons and spoons on a shelf and sold them for paper coins"),
        ("Let us make a play!", "put on old hats and played a king and a dragon"),
    ),
)

PLOTS = (
    LOST_AND_FOUND,
    ANIMAL_IN_NEED,
    BIRTHDAY_DISH,
    QUARREL,
    GROWING,
    COURAGE,
    HONESTY,
    RACE,
    NIGHT_NOISE,
    TRADING,
    RAINY_DAY,
)
