"""The Chinese world of the stories: 谁，在哪里。"""

from dataclasses import dataclass, replace

from minideepseek.data.stories.draw import Draw
from minideepseek.data.stories.grammar import table, template

GIRLS = "小红 小花 小雨 小雪 小月 小燕 小玲 小芳 小兰 小云 小梅 小静".split()
BOYS = "小明 小刚 小亮 小龙 小虎 小军 小杰 小林 小宝 小东 小山 小海".split()
FAMILIES = "王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 马 朱 胡 林 郭 何 高 罗 郑 梁 谢 宋 唐 许 邓 韩 冯 曹".split()
ANIMALS = "小白兔 小狐狸 小老鼠 小熊 小鸭子 小花猫 小狗 小青蛙 小松鼠 小刺猬".split()
PET_NAMES = "跳跳 豆豆 圆圆 毛毛 点点 乐乐 贝贝 果果".split()


@dataclass(frozen=True, slots=True)
class Person:
    """故事里的人物。full: the name by which facts are remembered; he: the pronoun, 他, 她 or 它."""

    name: str
    full: str
    noun: str
    measure: str
    he: str

    def __str__(self) -> str:
        return self.name


CHILDREN = [Person(name, name, "女孩", "个", "她") for name in GIRLS] + [
    Person(name, name, "男孩", "个", "他") for name in BOYS
]
CREATURES = [Person(name, name, animal, "只", "它") for animal in ANIMALS for name in PET_NAMES]
FACT_PEOPLE = [
    replace(child, full=FAMILIES[(i + turn) % len(FAMILIES)] + child.name)
    for turn in range(len(FAMILIES))
    for i, child in enumerate(CHILDREN)
]


@dataclass(frozen=True, slots=True)
class Setting:
    """一个地方，和属于那里的东西。animals, treasures: with number and measure word, as a story first names them."""

    home: str
    place: str
    pastime: str
    hazard: str
    spots: tuple[str, ...]
    treasures: tuple[str, ...]
    animals: tuple[str, ...]


SETTINGS = (
    Setting(
        home="海边的一座白房子里",
        place="沙滩上",
        pastime="堆沙堡",
        hazard="一个大浪打了过来",
        spots=("一块湿石头后面", "旧木船下面", "两个大贝壳中间", "沙坑里"),
        treasures=("一个亮晶晶的贝壳", "一块光滑的蓝石头", "一颗白色的珍珠"),
        animals=("一只小螃蟹", "一只海鸥", "一只小海龟"),
    ),
    Setting(
        home="森林边上",
        place="森林里",
        pastime="捡橡果",
        hazard="一根树枝掉了下来",
        spots=("一堆落叶下面", "大橡树后面", "空心的木头里", "一丛蘑菇旁边"),
        treasures=("一片金色的叶子", "一颗圆圆的橡果", "一根长长的羽毛"),
        animals=("一只猫头鹰", "一只小鹿", "一只小松鼠"),
    ),
    Setting(
        home="山后面的农场里",
        place="草地上",
        pastime="采野花",
        hazard="一只生气的大鹅冲了过来",
        spots=("谷仓后面", "干草堆下面", "篱笆旁边", "高高的草丛里"),
        treasures=("一个白白的鸡蛋", "一片四叶草", "一块旧马蹄铁"),
        animals=("一只小羊", "一只母鸡", "一匹小马"),
    ),
    Setting(
        home="小河边的木屋里",
        place="小河边",
        pastime="放纸船",
        hazard="脚下的石头忽然滑了一下",
        spots=("小桥下面", "芦苇后面", "柳树根中间", "一块平平的石头上"),
        treasures=("一个银色的鱼钩", "一块圆圆的石子", "一只小纸船"),
        animals=("一只小鸭子", "一只青蛙", "一只水獭"),
    ),
    Setting(
        home="高山上的村子里",
        place="山路上",
        pastime="找水晶",
        hazard="一块石头滚了下来",
        spots=("带刺的树丛后面", "小山洞里", "松树下面", "木门旁边"),
        treasures=("一块透明的水晶", "一个大松果", "一个小铃铛"),
        animals=("一只山羊", "一只老鹰", "一只小狐狸"),
    ),
    Setting(
        home="热闹的城里",
        place="公园里",
        pastime="荡秋千",
        hazard="一辆自行车飞快地骑了过来",
        spots=("绿色的长椅下面", "喷泉后面", "秋千旁边", "花坛里"),
        treasures=("一枚亮亮的硬币", "一颗黄色的纽扣", "一把丢失的钥匙"),
        animals=("一只小猫", "一只鸽子", "一只小狗"),
    ),
)

WEATHER = table(
    "day sky",
    ("一个晴朗的早晨", "天空很蓝"),
    ("一个刮风的日子", "树叶在空中跳舞"),
    ("一个寒冷的早晨", "窗户上结了冰"),
    ("一个温暖的下午", "蜜蜂嗡嗡地叫"),
    ("一个安静的傍晚", "太阳慢慢下山了"),
    ("春天的一天", "第一批花开了"),
    ("秋天的一天", "树叶变成了红色和金色"),
)
GROWN_UPS = table(
    "elder elder_she", ("妈妈", "她"), ("爸爸", "他"), ("奶奶", "她"), ("爷爷", "他"), ("叔叔", "他"), ("姑姑", "她")
)
COLOURS = table("colour", *"红色 蓝色 绿色 黄色 白色 紫色".split())
TOYS = table(
    "toy measure",
    ("皮球", "个"),
    ("风筝", "只"),
    ("小鼓", "面"),
    ("帽子", "顶"),
    ("围巾", "条"),
    ("小木船", "只"),
    ("布娃娃", "个"),
)

BLANK = ""
OPENING = template(
    """
    [从前有一{hero.measure}{nature}的{hero.noun}，名字叫{hero.full}。|很久以前，有一{hero.measure}{nature}的{hero.noun}，
    大家叫{hero.he}{hero.full}。|{hero.full}是一{hero.measure}{nature}的{hero.noun}。|这是{hero.full}的故事，{hero.he}是
    一{hero.measure}{nature}的{hero.noun}。]{about}
    """,
    blank=BLANK,
)
ADDRESS = "{hero.he}住在{home}。"
NATURES = "善良 害羞 勇敢 好奇 快乐 聪明 安静 活泼 细心 爱笑".split()


def scenery(draw: Draw, hero: Person, friend: Person) -> dict[str, object]:
    """每个故事都可以用的：两个人物，一个地方，和那里的东西。"""
    setting = draw.pick(SETTINGS)
    spot, wrong_spot = draw.two(setting.spots)
    an_animal = draw.pick(setting.animals)
    while an_animal.endswith(hero.noun[1:]):  # 小青蛙遇见青蛙，就分不清谁是谁了
        an_animal = draw.pick(setting.animals)
    return {
        "hero": hero,
        "friend": friend,
        "nature": draw.pick(NATURES),
        "home": setting.home,
        "place": setting.place,
        "pastime": setting.pastime,
        "hazard": setting.hazard,
        "spot": spot,
        "wrong_spot": wrong_spot,
        "treasure": draw.pick(setting.treasures),
        "an_animal": an_animal,
        "animal": an_animal[2:],
    }
