"""Chinese plots, in their own words: 发生了什么，为什么，谁说了什么，结果怎样。One function each."""

from minideepseek.data.stories.chinese import WEATHER, Person, Setting
from minideepseek.data.stories.draw import Draw

Scene = tuple[Draw, Person, Person, Setting]
Paragraphs = tuple[str, ...]

COLOURS = "红 蓝 绿 黄 白 紫".split()
# (noun, with "this" and its measure word, with "one" and its measure word up to the colour)
TOYS = (
    ("皮球", "个"),
    ("风筝", "只"),
    ("小鼓", "面"),
    ("帽子", "顶"),
    ("围巾", "条"),
    ("小木船", "只"),
    ("布娃娃", "个"),
)
GROWN_UPS = (("妈妈", "她"), ("爸爸", "他"), ("奶奶", "她"), ("爷爷", "他"))


def lost_and_found(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    day, sky = draw.pick(WEATHER)
    colour = draw.pick(COLOURS)
    toy, measure = draw.pick(TOYS)
    wrong, right = draw.two(setting.spots)
    animal, one_animal = draw.pick(setting.animals)
    return (
        f"{day}，{sky}。{hero.name}带着一{measure}{colour}色的{toy}来到{setting.place}。"
        + draw.pick(
            (
                f"可是要回家的时候，{toy}不见了！",
                f"{hero.he}停下来{setting.pastime}，抬头一看，{toy}不见了！",
                f"{hero.he}睡着了一会儿，醒来的时候，怎么也找不到{toy}。",
            )
        ),
        f"{hero.name}{draw.pick(('急得哭了起来', '心里很难过', '不知道怎么办才好'))}。"
        + f"“你看见我的{toy}了吗？”{hero.he}问{friend.name}。“没有，”{friend.name}说，“不过我可以帮你找。”"
        + f"他们先找了{wrong}，那里没有。"
        + draw.pick(
            (
                f"这时来了{one_animal}，它看了看{right}。{toy}就在那里！",
                f"忽然他们听见了{one_animal}的声音。{animal}就在{right}，身边正是那{measure}{toy}！",
                f"他们又找了{right}，{toy}就在那里！{one_animal}正靠着它睡觉呢。",
            )
        ),
        draw.pick(
            (
                f"“谢谢你帮我，”{hero.name}说。从此以后，{hero.he}总是好好地看着自己的{toy}。",
                f"{hero.name}高兴地抱住了{friend.name}，然后他们一起玩了起来。",
                f"“两个人找总比一个人快，”{friend.name}说。他们一路笑着回了家。",
            )
        ),
    )


TROUBLES = (
    ("陷在泥里出不来", "用一根长树枝把它拉了出来"),
    ("脚上扎了一根刺", "慢慢地把刺拔了出来"),
    ("被一张旧网缠住了", "用尖尖的石头割断了网"),
    ("掉进了一个深坑", "用树枝做了一个小梯子"),
    ("冷得直发抖", "用暖和的围巾把它包了起来"),
    ("两天没有吃东西了", "把自己的面包分给了它"),
)


def animal_in_need(scene: Scene) -> Paragraphs:
    draw, hero, _, setting = scene
    day, sky = draw.pick(WEATHER)
    trouble, help_ = draw.pick(TROUBLES)
    animal, one_animal = draw.pick(setting.animals)
    return (
        f"{day}，{hero.name}到{setting.place}去{setting.pastime}。{hero.he}听见了一个"
        + f"{draw.pick(('小小的', '奇怪的', '难过的', '轻轻的'))}声音。原来是{one_animal}！可怜的{animal}{trouble}。",
        draw.pick(
            (
                f"“别怕，”{hero.name}说，“我来帮你。”{hero.he}{help_}。",
                f"“请帮帮我，”{animal}说。{hero.name}马上{help_}。",
                f"{hero.name}心里想：“我不能不管它。”于是{hero.he}{help_}。",
            )
        )
        + f"不一会儿，{animal}{draw.pick(('就好多了', '又有力气了', '就高兴起来了'))}。",
        draw.pick(
            (
                f"第二天，{animal}带着{draw.pick(setting.treasures)}回来了。那是送给{hero.name}的礼物！",
                f"过了几天，{setting.hazard}，{hero.name}没有看见。{animal}大声叫了起来，{hero.name}这才躲开了。",
                f"从那以后，{hero.name}和{animal}天天见面，成了最好的朋友。",
            )
        )
        + draw.pick(("", "帮助别人，就是帮助自己。", f"{hero.name}永远忘不了那一天。")),
    )


DISHES = (
    ("苹果蛋糕", "一个", "苹果", "蜂蜜"),
    ("鸡蛋面", "一碗", "面条", "鸡蛋"),
    ("萝卜汤", "一锅", "萝卜", "盐"),
    ("白菜饺子", "一盘", "白菜", "面粉"),
    ("红豆包", "一笼", "面粉", "红豆"),
)


def cooking(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    dish, amount, first, missing = draw.pick(DISHES)
    who, she = draw.pick(GROWN_UPS)
    return (
        f"今天是{hero.name}的{who}的生日。{hero.name}想给{she}做{amount}{dish}。厨房里有很多{first}，可是没有{missing}。"
        + draw.pick(("“哎呀，怎么办呢？”" + f"{hero.name}说。", f"{hero.name}急得走来走去。")),
        f"于是{hero.he}跑去找{friend.name}。“你能给我一点{missing}吗？”“可以，”{friend.name}说，"
        + draw.pick(
            (
                f"“不过你要帮我搬木头。”他们一起搬完了木头，{friend.name}就把{missing}给了{hero.he}。",
                "“让我和你一起做吧。”于是他们一起忙了起来。",
                f"“上个星期你给过我{first}，这次我来帮你。”{friend.name}装了满满一罐{missing}。",
            )
        ),
        draw.pick(
            (
                f"晚上，整个屋子都香香的。{who}吃了一口，笑着说：“这是我吃过的最好的{dish}。”",
                f"{dish}做得有点咸，{hero.name}很担心。可是{who}全都吃完了。“因为里面有你的爱，”{she}说。",
                f"{who}回到家，看见桌子上的{dish}，高兴得跳起舞来。",
            )
        ),
    )


def quarrel(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    day, _ = draw.pick(WEATHER)
    toy, measure = draw.pick(TOYS)
    colour = draw.pick(COLOURS)
    return (
        f"{day}，{hero.name}和{friend.name}在{setting.place}玩。",
        f"他们在{draw.pick(setting.spots)}发现了一{measure}{colour}色的{toy}。“这是我的！”{hero.name}说。"
        + f"“不，是我先看见的！”{friend.name}说。"
        + draw.pick(
            (
                f"他们用力一拉，{toy}坏了，谁也玩不成了。",
                "他们拉来拉去，一起摔进了水坑，又湿又生气。",
                f"{friend.name}拿着{toy}跑了，{hero.name}坐在地上哭了。",
            )
        ),
        draw.pick(
            (
                f"过了一会儿，{hero.name}说：“对不起，你比{toy}重要得多。”",
                f"过了一会儿，{friend.name}走过来说：“对不起，一个人玩没有意思。”",
                f"他们很久都没有说话。后来{hero.name}看看{friend.name}，两个都笑了起来。",
            )
        )
        + draw.pick(
            (
                "从此他们轮流玩，一个下午比两个下午还快乐。",
                "于是他们想出了一个两个人才能玩的新游戏。",
                "从那天起，他们什么玩具都一起玩。",
            )
        ),
    )


PLANTS = (
    ("向日葵", "长得和房子一样高", "把瓜子分给了小鸟"),
    ("南瓜", "长得像椅子一样大", "给大家做了南瓜汤"),
    ("苹果树", "结满了红红的苹果", "给邻居送去了一篮苹果"),
    ("丝瓜", "长得爬上了屋顶", "用它做了一顿晚饭"),
    ("玫瑰", "开满了粉红的花", "给每个客人送了一朵花"),
)


def growing(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    plant, size, use = draw.pick(PLANTS)
    who, _ = draw.pick(GROWN_UPS)
    return (
        f"春天，{hero.name}的{who}给了{hero.he}一颗小小的种子。“这会长成什么呢？”{hero.name}问。"
        + f"“等一等你就知道了，”{who}说。{hero.name}把种子埋进土里，天天给它浇水。",
        "很长时间什么也没有长出来。"
        + draw.pick(
            (
                f"“它可能死了，”{friend.name}说。可是{hero.name}没有放弃。",
                f"{hero.name}想把它挖出来看看。“要有耐心，”{who}说。",
                f"后来好几个星期没有下雨，{hero.name}就从井里打水给它喝。",
            )
        )
        + f"终于，一片小小的绿叶长了出来。它越长越大，原来是{plant}！",
        f"夏天，{plant}{size}。{hero.name}和{friend.name}{use}。"
        + draw.pick(
            (
                f"“好东西要慢慢等，”{who}说。",
                f"{hero.name}留下了一颗种子，准备明年再种。",
                f"大家都说{hero.name}是一个真正的小园丁。",
            )
        ),
    )


FEARS = (
    ("黑", "灯忽然灭了", "拉着{friend}的手，一步一步走到门口", "黑暗只是夜晚的衣服"),
    ("水", "{friend}掉进了池塘", "跳下去，把{friend}拉了上来", "水把我托起来了"),
    ("大狗", "一条大狗站在路中间", "站着不动，轻轻地跟它说话", "它只是想和我玩"),
    ("打雷", "下起了大雨，{friend}一个人在外面", "冲进雨里，把{friend}带回了家", "雷声只是响一点"),
    ("高", "{friend}的小猫在屋顶上下不来", "爬上梯子，把小猫抱了下来", "我只看着小猫，没有看地面"),
)


def courage(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    fear, event, deed, insight = (part.format(friend=friend.name) for part in draw.pick(FEARS))
    day, sky = draw.pick(WEATHER)
    return (
        f"{hero.name}什么都好，就是怕{fear}。"
        + draw.pick(
            (
                f"有时候大家会笑{hero.he}。",
                f"“总有一天你会勇敢的，”{draw.pick(GROWN_UPS)[0]}对{hero.he}说。",
                f"{hero.he}从来没有告诉过别人。",
            )
        ),
        f"{day}，{sky}，{event}。{hero.name}的心{draw.pick(('跳得很快', '像打鼓一样响', '咚咚地跳'))}。"
        + draw.pick((f"“我一定要去，”{hero.he}说。", f"{hero.he}想：“现在只能靠我了。”", "已经没有时间多想了。"))
        + f"{hero.he}{deed}。",
        draw.pick(
            (
                f"“你真勇敢！”{friend.name}说。“我也害怕，”{hero.name}说，“可是{insight}。”",
                f"“你不怕{fear}了吗？”{friend.name}问。“不怕了，”{hero.name}说，“{insight}。”",
                f"那天晚上{hero.name}睡得很香。勇敢不是不害怕，而是害怕了也去做。",
            )
        ),
    )


ACCIDENTS = (
    ("打碎了蓝花瓶", "把碎片藏在床下", "拿来胶水，和{him}一起粘好了花瓶"),
    ("吃光了整个蛋糕", "说是猫吃的", "和{him}一起又做了一个"),
    ("把墨水洒在信上", "把信藏了起来", "和{him}一起重新写了一封"),
    ("丢了花园的钥匙", "什么也没有说", "配了一把新钥匙，还系上了绳子"),
    ("弄破了新衣服", "把它塞进了柜子", "教{him}怎样缝好它"),
)


def honesty(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    mishap, cover, mend = (part.format(him=hero.he) for part in draw.pick(ACCIDENTS))
    who, she = draw.pick(GROWN_UPS)
    day, _ = draw.pick(WEATHER)
    return (
        f"{day}，{hero.name}一个人在家。{hero.he}{draw.pick(('玩得太高兴', '跑来跑去', '一不小心'))}，{mishap}。"
        + f"{hero.he}很害怕，就{cover}。",
        f"吃晚饭的时候，{hero.he}什么也吃不下。"
        + draw.pick(
            (
                f"“你怎么了？”{who}问。",
                f"“你今天怎么不说话？”{who}问。",
                f"{hero.he}想起{friend.name}说过的话：“要说真话。”",
            )
        )
        + f"{hero.name}深深地吸了一口气，说：“是我{mishap}。对不起。”",
        f"{who}{draw.pick(('没有生气', '想了一会儿，笑了'))}。“谢谢你告诉我，”{she}说。然后{she}{mend}。"
        + draw.pick(
            (f"说了真话，{hero.name}心里轻松多了。", f"{hero.name}觉得自己像羽毛一样轻。", f"{hero.name}又吃得下饭了。")
        ),
    )


def race(scene: Scene) -> Paragraphs:
    draw, hero, friend, setting = scene
    day, sky = draw.pick(WEATHER)
    prize = draw.pick(("一篮梨", "一个银杯", "一个大蛋糕", "一架新雪橇", "一面小旗"))
    return (
        f"{day}，{sky}，村里举行跑步比赛。第一名的奖品是{prize}。“我跑得最快，我一定会赢，”{friend.name}说。"
        + f"{hero.name}{draw.pick(('没有说话', '只是笑了笑', '系好了鞋带'))}。",
        f"比赛开始了。{friend.name}跑在最前面。"
        + draw.pick(
            (
                f"可是{friend.name}滑了一下，摔伤了膝盖。",
                f"可是{friend.name}走错了路，找不到方向了。",
                f"可是{setting.hazard}，{friend.name}摔倒了。",
            )
        )
        + f"{hero.name}本来可以赢，但是{hero.he}停了下来，"
        + draw.pick((f"扶起了{friend.name}。", f"叫住了{friend.name}。", f"等着{friend.name}。"))
        + "最后，他们一起走到了终点。",
        draw.pick(
            (
                f"“你为什么停下来？”{friend.name}问。“朋友比{prize[2:]}更重要，”{hero.name}说。",
                "大家都为他们鼓掌，得了第一名的人还把奖品分给了他们。",
                f"“下次我再也不说大话了，”{friend.name}说。“下次我们一起好好跑，”{hero.name}说。",
            )
        ),
    )


SOUNDS = (
    ("嗒，嗒，嗒", "一根树枝在敲窗户", "把树枝剪掉了"),
    ("吱吱，吱吱", "一只小老鼠在找东西吃", "给了它一小块饼干"),
    ("咕咕，咕咕", "一只迷路的猫头鹰", "给它打开了窗户"),
    ("滴答，滴答", "屋顶漏水了", "在下面放了一个水桶"),
    ("沙沙，沙沙", "一只小猫想进来", "让它进了屋"),
)


def night_noise(scene: Scene) -> Paragraphs:
    draw, hero, friend, _ = scene
    sound, cause, remedy = draw.pick(SOUNDS)
    monster = draw.pick(("妖怪", "小偷", "大灰狼", "巨龙"))
    return (
        f"一天夜里，{hero.name}睡不着。黑暗中传来“{sound}”的声音。“是{monster}！”{hero.name}想，"
        + f"{draw.pick(('赶紧钻进被子里', '紧紧抱着枕头', '一动也不敢动'))}。",
        draw.pick((f"住在{hero.name}家的{friend.name}也醒了。", f"{hero.he}叫醒了睡在旁边的{friend.name}。"))
        + f"“我们一起去看看，”{friend.name}说。他们拿着{draw.pick(('一盏灯', '一支蜡烛', '一把扫帚'))}，轻轻地往前走。"
        + f"“{sound}！”声音越来越近。{hero.name}打开门一看，哪里有什么{monster}，原来是{cause}！",
        f"他们{draw.pick(('笑个不停', '你看看我，我看看你，都笑了'))}。然后他们{remedy}。"
        + draw.pick(
            (
                f"那天晚上{hero.name}一直睡到天亮。",
                "有时候，看清楚了就不害怕了。",
                f"“晚安，{monster}，”{hero.name}笑着说。",
            )
        ),
    )


PLOTS = (
    lost_and_found,
    animal_in_need,
    cooking,
    quarrel,
    growing,
    courage,
    honesty,
    race,
    night_noise,
)
