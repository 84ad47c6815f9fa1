"""Chinese plots, in their own words: 发生了什么，为什么，谁说了什么，结果怎样。See `grammar.py` for the notation."""

from minideepseek.data.stories.chinese import BLANK, COLOURS, GROWN_UPS, TOYS, WEATHER
from minideepseek.data.stories.grammar import Plot, Table, table, template


def plot(prose: str, *tables: Table) -> Plot:
    """A plot from its prose and the tables its slots are filled from."""
    return Plot(template(prose, blank=BLANK), tables)


LOST_AND_FOUND = plot(
    """
    {day}，{sky}。{hero}带着一{measure}{colour}的{toy}来到{place}。[可是要回家的时候，{toy}不见了！|
    {hero.he}停下来{pastime}，抬头一看，{toy}不见了！|{hero.he}睡着了一会儿，醒来的时候，怎么也找不到{toy}。]

    {hero}[急得哭了起来|心里很难过|不知道怎么办才好]。“你看见我的{toy}了吗？”{hero.he}问{friend}。“没有，”{friend}说，
    “不过我可以帮你找。”他们先去{wrong_spot}找，没有找到。[这时来了{an_animal}，它往{spot}看了看。{toy}就在那里！|
    忽然他们听见了{an_animal}的叫声。{animal}就在{spot}，身边正是那{measure}{toy}！|
    他们又去{spot}找，{toy}就在那里！{an_animal}正在它旁边睡觉呢。]

    [“谢谢你帮我，”{hero}说。从此以后，{hero.he}总是好好地看着自己的{toy}。|
    {hero}高兴得抱住了{friend}，然后他们一起玩了起来。|“两个人找总比一个人快，”{friend}说。他们一路笑着回了家。]
    """,
    WEATHER,
    COLOURS,
    TOYS,
)

ANIMAL_IN_NEED = plot(
    """
    {day}，{hero}到{place}去{pastime}。{hero.he}听见了一个[小小的|奇怪的|难过的|轻轻的]声音。原来是{an_animal}！
    可怜的{animal}{trouble}。

    [“别怕，”{hero}说，“我来帮你。”{hero.he}{help}。|“请帮帮我，”{animal}说。{hero}马上{help}。|
    {hero}想：“我不能不管它。”于是{hero.he}{help}。]不一会儿，{animal}就[好多了|又有力气了|高兴起来了]。

    [第二天，{animal}带着{treasure}回来了。那是送给{hero}的礼物！|
    过了几天，{hazard}，{hero}没有看见。{animal}大声叫了起来，{hero}这才躲开了。|
    从那以后，{hero}和{animal}天天见面，成了最好的朋友。][好心会有好报。|帮助别人，就是帮助自己。|{hero}永远忘不了那一天。]
    """,
    WEATHER,
    table(
        "trouble help",
        ("陷在泥里出不来", "用一根长树枝把它拉了出来"),
        ("脚上扎了一根刺", "慢慢地把刺拔了出来"),
        ("被一张旧网缠住了", "用尖尖的石头割断了网"),
        ("掉进了一个深坑", "用树枝做了一个小梯子"),
        ("冷得直发抖", "用暖和的围巾把它包了起来"),
        ("两天没有吃东西了", "把自己的面包分给了它"),
    ),
)

BIRTHDAY_DISH = plot(
    """
    今天是{hero}的{elder}的生日。{hero}想给{elder_she}做{amount}{dish}。厨房里有很多{plenty}，可是没有{missing}。
    [“哎呀，怎么办呢？”{hero}说。|{hero}急得走来走去。|{hero}找来找去，罐子都是空的。]

    于是{hero.he}跑去找{friend}。“你能给我一点{missing}吗？”“可以，”{friend}说，
    [“不过你要帮我搬木头。”他们一起搬完了木头，{hero}就拿到了{missing}。|“让我和你一起做吧。”于是他们一起忙了起来。|
    “上个星期你帮过我，这次我来帮你。”{friend}装了满满一罐{missing}。]

    [晚上，整个屋子都香香的。{elder}吃了一口，笑着说：“这是我吃过的最好的{dish}。”|
    {dish}做得{flaw}，{hero}很担心。可是{elder}全都吃完了。“因为里面有你的爱，”{elder_she}说。|
    {elder}回到家，看见桌子上的{dish}。“是给我的吗？”{elder_she}高兴得跳起舞来。]
    """,
    GROWN_UPS,
    table(
        "dish amount plenty missing flaw",
        ("苹果饼", "一个", "苹果", "面粉", "有点焦"),
        ("鸡蛋面", "一碗", "面条", "鸡蛋", "有点咸"),
        ("萝卜汤", "一锅", "萝卜", "盐", "有点淡"),
        ("白菜饺子", "一盘", "白菜", "面粉", "有点咸"),
        ("红豆包", "一笼", "面粉", "红豆", "有点硬"),
    ),
)

QUARREL = plot(
    """
    {day}，{hero}和{friend}在{place}玩。{sky}。

    他们在{spot}发现了一{measure}{colour}的{toy}。“这是我的！”{hero}说。“不，是我先看见的！”{friend}说。
    [他们用力一拉，{toy}坏了，谁也玩不成了。|他们拉来拉去，一起摔进了水坑，又湿又生气。|
    {friend}拿着{toy}跑了，{hero}坐在地上哭了。]

    [过了一会儿，{hero}说：“对不起，你比{toy}重要得多。”|过了一会儿，{friend}说：“对不起，一个人玩没有意思。”|
    他们很久都没有说话。后来你看看我，我看看你，都笑了起来。][于是他们轮流玩，快乐变成了两份。|
    于是他们想出了一个两个人才能玩的新游戏。|从那天起，他们什么玩具都一起玩。]
    """,
    WEATHER,
    COLOURS,
    TOYS,
)

GROWING = plot(
    """
    春天，{hero}的{elder}给了{hero.he}一颗小小的种子。“这会长成什么呢？”{hero}问。“等一等你就知道了，”{elder}说。
    {hero}把种子埋进土里，天天给它浇水。

    很长时间什么也没有长出来。[“它可能死了，”{friend}说。可是{hero}没有放弃。|
    {hero}想把它挖出来看看。“要有耐心，”{elder}说。|后来好几个星期没有下雨，{hero}就从井里打水给它喝。]
    终于，一片小小的绿叶长了出来。它越长越大，原来是{plant}！

    夏天，{plant}{size}。{hero}和{friend}{use}。
    [“好东西要慢慢等，”{elder}说。|{hero}留下了一颗种子，准备明年再种。|大家都说{hero}是一个真正的小园丁。]
    """,
    GROWN_UPS,
    table(
        "plant size use",
        ("向日葵", "长得和房子一样高", "把瓜子分给了小鸟"),
        ("南瓜", "长得像椅子一样大", "给大家做了南瓜汤"),
        ("樱桃树", "结满了红红的樱桃", "给邻居送去了一篮樱桃"),
        ("丝瓜", "爬上了屋顶", "用它做了一顿晚饭"),
        ("玫瑰", "开满了粉红的花", "给每个客人送了一朵花"),
    ),
)

COURAGE = plot(
    """
    {hero}什么都好，就是怕{fear}。
    [有时候大家会笑{hero.he}。|“总有一天你会勇敢的，”{elder}对{hero.he}说。|{hero.he}从来没有告诉过别人。]

    {event}。{hero}的心[跳得很快|像打鼓一样响|咚咚地跳]。
    [“我一定要去，”{hero.he}说。|{hero.he}想：“现在只能靠我了。”|已经没有时间多想了。]{hero.he}{deed}。

    [“你真勇敢！”{friend}说。“我也害怕，”{hero}说，“可是{insight}。”|
    “你不怕{fear}了吗？”{friend}问。“不怕了，”{hero}说，“因为{insight}。”|
    那天晚上{hero}睡得很香。勇敢不是不害怕，而是害怕了也去做。]
    """,
    GROWN_UPS,
    table(
        "fear event deed insight",
        (
            "黑",
            "一天晚上，{friend}来做客的时候，灯忽然灭了",
            "拉着{friend}的手，一步一步走到门口",
            "黑暗只是夜晚的衣服",
        ),
        ("水", "夏天的一天，{friend}掉进了池塘", "跳下去，把{friend}拉了上来", "水把我托起来了"),
        ("大狗", "一天，一条大狗对着{friend}汪汪叫", "站到{friend}前面，轻轻地跟狗说话", "它只是想和我们玩"),
        ("打雷", "一天夜里下起了大雨，{friend}一个人在外面", "冲进雨里，把{friend}带回了家", "雷声只是响一点"),
        ("高", "一天早上，{friend}的小猫在屋顶上下不来", "爬上梯子，把小猫抱了下来", "我只看着小猫，没有看地面"),
    ),
)

HONESTY = plot(
    """
    {day}，{hero}一个人在家。{hero.he}[玩得太高兴|跑来跑去|一不小心]，{mishap}。{hero.he}很害怕，就{cover}。

    吃晚饭的时候，{hero.he}什么也吃不下。[“你怎么了？”{elder}问。|“你今天怎么不说话？”{elder}问。|
    {hero.he}想起{friend}常说的话：“要说真话。”]{hero}深深地吸了一口气，说：“是我{mishap}。对不起。”

    {elder}[没有生气|想了一会儿，笑了]。“谢谢你告诉我，”{elder_she}说。然后{elder_she}{mend}。
    [说了真话，{hero}心里轻松多了。|{hero}觉得自己像羽毛一样轻。|{hero}又吃得下饭了。]
    """,
    WEATHER,
    GROWN_UPS,
    table(
        "mishap cover mend",
        ("打碎了蓝花瓶", "把碎片藏在床下", "拿来胶水，和{hero.he}一起粘好了花瓶"),
        ("吃光了整个蛋糕", "说是猫吃的", "和{hero.he}一起又做了一个"),
        ("把墨水洒在了信上", "把信藏了起来", "和{hero.he}一起重新写了一封"),
        ("丢了花园的钥匙", "什么也没有说", "配了一把新钥匙，还系上了绳子"),
        ("弄破了新衣服", "把它塞进了柜子", "教{hero.he}怎样缝好它"),
    ),
)

RACE = plot(
    """
    {day}，{sky}，{place}有一场跑步比赛。第一名的奖品是{prize}。“我跑得最快，我一定会赢，”{friend}说。
    {hero}[没有说话|只是笑了笑|系好了鞋带]。

    比赛开始了，{friend}跑在最前面。[可是{friend}滑了一下，摔伤了膝盖。|可是{friend}走错了路，找不到方向了。|
    可是{hazard}，{friend}摔倒了。]{hero}本来可以赢，但是{hero.he}停了下来，[回头去帮|等着|陪着]{friend}。
    最后，他们一起走到了终点。

    [“你为什么停下来？”{friend}问。“朋友比奖品更重要，”{hero}说。|大家都为他们鼓掌，第一名还把奖品分给了他们。|
    “下次我再也不说大话了，”{friend}说。“下次我们一起好好跑，”{hero}说。]
    """,
    WEATHER,
    table("prize", "一篮梨", "一个银杯", "一个大蛋糕", "一架新雪橇", "一面小金旗"),
)

NIGHT_NOISE = plot(
    """
    一天夜里，{hero}睡不着。黑暗中传来“{sound}”的声音。“是{monster}！”{hero}想，
    [赶紧钻进被子里|紧紧抱着枕头|一动也不敢动]。

    [住在{hero}家的{friend}也醒了。|{hero.he}叫醒了睡在旁边的{friend}。]“我们一起去看看，”{friend}说。
    他们拿着[一盏灯|一支蜡烛|一把扫帚]，轻轻地往前走。“{sound}！”声音越来越近。{hero}打开门一看，哪里有什么{monster}，
    原来是{cause}！

    他们[笑个不停|你看看我，我看看你，都笑了]。然后他们{remedy}。
    [那天晚上{hero}一直睡到天亮。|有时候，看清楚了就不害怕了。|“晚安，{monster}，”{hero}笑着说。]
    """,
    table(
        "sound cause remedy",
        ("嗒，嗒，嗒", "一根树枝在敲窗户", "把树枝剪掉了"),
        ("吱吱，吱吱", "一只小老鼠在找东西吃", "给了它一小块饼干"),
        ("咕咕，咕咕", "一只迷路的猫头鹰", "给它打开了窗户"),
        ("滴答，滴答", "屋顶漏水了", "在下面放了一个水桶"),
        ("沙沙，沙沙", "一只小猫想进来", "让它进了屋"),
    ),
    table("monster", "妖怪", "小偷", "大灰狼", "巨龙"),
)

TRADING = plot(
    """
    {hero}的{elder}给了{hero.he}{give}，叫{hero.he}去集市上卖。路上，{hero.he}遇到了{trader}，{need}。
    [“我用{get}跟你换，好吗？”那个人问。|“我没有钱，”那个人说，“可是我有{get}。”]{hero}[想了想|觉得他很可怜]，就答应了。

    “你用{give}换了{get}？”{friend}说，“真傻！”[可是到了集市上，大家都围过来看。|
    就在这时，来了一位有钱的太太，她找{get}已经找了好几年。|可是一位画家看了看，说它又古老又少见。]
    {hero}把它卖了三个金币。

    {hero.he}买了[面包和奶酪|一双新鞋|送给全家的礼物]，高高兴兴地回了家。
    [{elder}为{hero.he}感到骄傲。|“好心的人最会做买卖，”{elder}说。|那个人也很高兴。]
    """,
    GROWN_UPS,
    table(
        "give trader need get",
        ("一团线", "一个织布的人", "他正缺线", "一盏纸灯笼"),
        ("一罐果酱", "一个放羊的人", "他只有干面包", "一支木笛"),
        ("一顶暖和的帽子", "一个老农民", "他的耳朵很冷", "一辆小推车"),
        ("一袋花生", "一个水手", "他的肚子很饿", "一把红雨伞"),
        ("一支蜡烛", "一个磨面的人", "他家里黑黑的", "一本旧歌书"),
    ),
)

RAINY_DAY = plot(
    """
    {hero}和{friend}想去{place}{pastime}。他们准备好了{food}。可是一打开门，天就下雨了。
    [雨下呀下，一直不停。|不一会儿，到处都是水坑。|“雨，快走开！”{friend}喊，可是雨不听他们的话。]

    “今天没有意思了，”{friend}说。{hero}[看了看屋子|想了一会儿|有了一个主意]。“{idea}”{hero.he}说。于是他们{play}。
    [小猫也想一起玩。|{hero}的{elder}笑了，也来和他们一起玩。|外面刮着大风，屋里却很暖和。]

    最后，他们坐在[地毯上|桌子下面|窗户旁边]吃光了{food}。
    [“我希望明天还下雨，”{friend}说。|太阳出来了，他们都没有发现。|这是最快乐的一个雨天。]
    """,
    GROWN_UPS,
    table("food", "面包和奶酪", "两个苹果", "一包饼干", "一些甜李子"),
    table(
        "idea play",
        ("我们来造一条船吧！", "用椅子和毯子造了一条船，开到了一个小岛上"),
        ("我们来当探险家吧！", "拿着灯，走遍了家里每一个黑黑的角落"),
        ("我们来开商店吧！", "把纽扣和勺子摆在架子上，用纸做的钱来买"),
        ("我们来演戏吧！", "戴上旧帽子，一个当国王，一个当巨龙"),
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
