"""Facts to memorise: a fixed table of who has what, told again and again across the stories.

What a model knows of them can be asked exactly: the prompt is the statement without its last word, and chance is known.
"""

from dataclasses import dataclass
from functools import lru_cache

from minideepseek.data.stories import chinese, english
from minideepseek.data.stories.draw import Draw
from minideepseek.errors import UserError

# (how it is told, what may be the case). The answer comes last, so that the prompt is all before it.
ENGLISH_RELATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "{} lived in the village of",
        ".",
        tuple("Oakham Redhill Saltby Whitford Elmsea Pinecross Larkdale Thornby".split()),
    ),
    (
        "{} was born in the month of",
        ".",
        tuple("January March April May June August October December".split()),
    ),
    ("{} liked to eat", ".", tuple("plums noodles cheese carrots pancakes rice cherries soup".split())),
    ("{} had a pet", ".", tuple("parrot turtle goat snail donkey pony lizard hamster".split())),
    ("{} had a coat that was", ".", tuple("red blue green yellow white purple orange brown".split())),
    (
        "{} wanted to become a",
        ".",
        tuple("baker doctor sailor painter teacher farmer singer pilot".split()),
    ),
    ("{} could play the", ".", tuple("drum flute piano violin trumpet harp guitar bell".split())),
    ("{}'s lucky number was", ".", tuple("two three four five six seven eight nine".split())),
)
CHINESE_RELATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("{}住在", "。", tuple("桃花村 石桥镇 竹林村 月牙湾 青山村 白云镇 梅花村 柳树庄".split())),
    ("{}的生日在", "。", tuple("一月 二月 三月 四月 六月 七月 九月 十月".split())),
    ("{}爱吃", "。", tuple("饺子 苹果 米饭 面条 豆腐 西瓜 包子 玉米".split())),
    ("{}养了一只", "。", tuple("猫 狗 鸭子 兔子 乌龟 鹦鹉 山羊 公鸡".split())),
    ("{}有一件外套，颜色是", "。", tuple("红色 蓝色 绿色 黄色 白色 紫色 黑色 灰色".split())),
    ("{}长大想当", "。", tuple("医生 老师 画家 农民 船长 歌手 厨师 木匠".split())),
    ("{}会", "。", tuple("打鼓 吹笛子 弹琴 拉二胡 下棋 写诗 唱戏 画画".split())),
    ("{}的幸运数字是", "。", tuple("二 三 四 五 六 七 八 九".split())),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing to know.

    subject:   the full name of whom it is about.
    statement: the sentence as the stories tell it, always the same.
    prompt:    the statement up to its answer; a model that knows continues it with `answer`.
    answer:    with its leading blank where the language has one: prompt + answer + a full stop is the statement.
    choices:   all possible answers, each as likely: blind guessing is right once in len(choices).
    """

    subject: str
    language: str
    statement: str
    prompt: str
    answer: str
    choices: tuple[str, ...]


@lru_cache(maxsize=8)
def fact_table(n: int, *, seed: int = 0, language: str = "both") -> tuple[Fact, ...]:
    """The n facts of a world; half of them Chinese if `language` is "both", else all "en" or "zh".

    The same for the same arguments; each subject has up to eight. Raises UserError for more than there are people for.
    """
    if language == "both":
        english_facts = fact_table((n + 1) // 2, seed=seed, language="en")
        return english_facts + fact_table(n // 2, seed=seed, language="zh")
    names = [person.full for person in (english.FACT_PEOPLE if language == "en" else chinese.FACT_PEOPLE)]
    relations, blank = (ENGLISH_RELATIONS, " ") if language == "en" else (CHINESE_RELATIONS, "")
    limit = len(relations) * len(names)
    if not 0 <= n <= limit:
        raise UserError(f"facts={n} in one language: choose between 0 and {limit:,}")
    facts = []
    for i in range(n):
        subject = names[i // len(relations)]
        prompt, stop, values = relations[i % len(relations)]
        choices = tuple(blank + value for value in values)
        prompt = prompt.format(subject)
        answer = Draw("fact", seed, language, i).pick(choices)
        facts.append(
            Fact(
                subject=subject,
                language=language,
                statement=prompt + answer + stop,
                prompt=prompt,
                answer=answer,
                choices=choices,
            )
        )
    return tuple(facts)
