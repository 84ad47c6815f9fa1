"""``minideepseek align``: from a model to one that solves tasks: tuned, practised, distilled, examined."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from minideepseek.align import (
    Accuracy,
    GRPOConfig,
    OnPolicyConfig,
    SFTConfig,
    demonstrations,
    examine,
    grpo,
    kept_format,
    kept_language,
    on_policy_distill,
    rejection_sample,
    sft,
    weighted,
)
from minideepseek.align.rewards import accuracy
from minideepseek.cli import did_you_mean, parse
from minideepseek.cli.generate import load_pair
from minideepseek.data.tasks import Flaws, Task, held_out_problems, open_task, practice_problems, tokenizer_for
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.generations import generations
from minideepseek.model import Transformer
from minideepseek.train.interrupt import Interrupted
from minideepseek.train.resume import check_free
from minideepseek.train.threads import choose_threads, keep_memory, threads

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a method is to do, and where it is kept. A stopped run goes on with the same command and --resume."""

    out: Path
    """Folder for metrics.jsonl, checkpoints and the model."""
    task: str = "addition"
    """addition, multiplication or countdown, with settings: addition:digits=3,languages=both."""
    resume: bool = False
    """Go on from the newest whole checkpoint in the folder, to the same numbers."""


def tune(
    model: Model,
    /,
    *,
    job: tyro.conf.OmitArgPrefixes[Job],
    examples: int = 20_000,
    wrong: float = 0.0,
    mixed: float = 0.0,
    bare: float = 0.0,
    cfg: tyro.conf.OmitArgPrefixes[SFTConfig] = SFTConfig(steps=800, batch_size=64),  # noqa: B008  (frozen)
) -> None:
    """Fine-tune a model on demonstrations of a task, flawless or not.

    Args:
        model: a generation (v1-mini, ...), which begins with random weights and the task's own few tokens, or the
            folder of a model that knows the task's characters.
        examples: demonstrations to learn from.
        wrong: chance of a number on the way to be another one.
        mixed: chance of a number to be written in the other alphabet, where languages=both.
        bare: chance of a response to come without tags.
        cfg: how it is tuned.
    """
    chosen = open_task(job.task)
    try:
        flaws = Flaws(wrong=wrong, mixed=mixed, bare=bare)
    except ValueError as error:
        raise UserError(str(error)) from None
    learner, tokenizer = _open(model, chosen, cfg.seed)
    shown = demonstrations(chosen, tokenizer, examples, flaws=flaws, seed=cfg.seed)
    _learn(job, chosen, learner, tokenizer, partial(sft, learner, shown, cfg, tokenizer=tokenizer))


def practise(
    model: Model,
    /,
    *,
    job: tyro.conf.OmitArgPrefixes[Job],
    problems: int = 5000,
    reward_format: float = 0.0,
    reward_language: float = 0.0,
    cfg: tyro.conf.OmitArgPrefixes[GRPOConfig] = GRPOConfig(),  # noqa: B008  (frozen)
) -> None:
    """Let a model practise a task and learn from what was rewarded (GRPO).

    A right answer earns 1, all else what the options say.

    Args:
        model: folder of a model that solves some problems sometimes.
        problems: to practise on, again and again; none is of those in the exam.
        reward_format: what a response in format earns beside.
        reward_language: what a response wholly in the language of its question earns beside.
        cfg: how it practises.
    """
    chosen = open_task(job.task)
    learner, tokenizer = _open(model, chosen, cfg.seed)
    asked = practice_problems(chosen, problems, seed=cfg.seed)
    reward = weighted((1.0, accuracy), (reward_format, kept_format), (reward_language, kept_language))
    _learn(job, chosen, learner, tokenizer, partial(grpo, learner, tokenizer, asked, reward, cfg))


def imitate(
    model: Model,
    /,
    *,
    teacher: Path,
    job: tyro.conf.OmitArgPrefixes[Job],
    problems: int = 2000,
    attempts: int = 4,
    cfg: tyro.conf.OmitArgPrefixes[SFTConfig] = SFTConfig(batch_size=64),  # noqa: B008  (frozen)
) -> None:
    """Fine-tune a model on what a teacher got right, as R1's small models were.

    Args:
        model: the student: a generation, or the folder of a model.
        teacher: folder of the teacher.
        problems: that the teacher is asked.
        attempts: of the teacher at each; the first right one is learnt from.
        cfg: how the student is tuned.
    """
    chosen = open_task(job.task)
    student, tokenizer = _open(model, chosen, cfg.seed)
    expert = _teacher(teacher, tokenizer)
    if not job.resume:
        check_free(job.out)  # before the teacher is asked: that takes its time
    asked = practice_problems(chosen, problems, seed=cfg.seed)
    shown = rejection_sample(expert, tokenizer, asked, attempts=attempts, seed=cfg.seed)
    if not shown:
        raise UserError(f"{teacher} solved none of {problems} problems of {job.task}; it is no teacher of that")
    print(f"the teacher solved {len(shown)} of {problems} problems in {attempts} attempts")
    _learn(job, chosen, student, tokenizer, partial(sft, student, shown, cfg, tokenizer=tokenizer))


def consult(
    model: Model,
    /,
    *,
    teacher: Path,
    job: tyro.conf.OmitArgPrefixes[Job],
    problems: int = 5000,
    cfg: tyro.conf.OmitArgPrefixes[OnPolicyConfig] = OnPolicyConfig(),  # noqa: B008  (frozen)
) -> None:
    """Let a model write, and learn what a teacher would have thought.

    V4's on-policy distillation: at every token, of every word of the vocabulary.

    Args:
        model: folder of the student.
        teacher: folder of the teacher, with the same tokenizer.
        problems: to write about, again and again.
        cfg: how the student learns.
    """
    chosen = open_task(job.task)
    student, tokenizer = _open(model, chosen, cfg.seed)
    expert = _teacher(teacher, tokenizer)
    asked = practice_problems(chosen, problems, seed=cfg.seed)
    _learn(job, chosen, student, tokenizer, partial(on_policy_distill, student, expert, tokenizer, asked, cfg))


def exam(
    model: Model,
    /,
    *,
    task: str = "addition",
    problems: int = 200,
    attempts: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> None:
    """Examine a model on problems that nobody practises.

    How often it is right in one attempt, in any of several, and in their majority.

    Args:
        model: folder of a model.
        task: addition, multiplication or countdown, with settings: addition:digits=3,languages=both.
        problems: different ones, held out.
        attempts: at each.
        temperature: 0 always takes the likeliest token; R1's exams use 0.6.
        top_p: draw from the smallest set of tokens that has this much probability together; R1's exams use 0.95.
        max_new_tokens: of an answer at most.
        seed: of the problems and of the answers.
    """
    chosen = open_task(task)
    learner, tokenizer = _open(model, chosen, seed)
    asked = held_out_problems(chosen, problems, seed=seed)
    with threads(choose_threads()):
        found = examine(
            learner,
            tokenizer,
            asked,
            attempts=attempts,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
    print(_line(found))


METHODS: dict[str, Callable[..., None]] = {
    "sft": tune,
    "grpo": practise,
    "imitate": imitate,
    "consult": consult,
    "exam": exam,
}


def main(args: Sequence[str]) -> None:
    """Call the method that the first argument names."""
    if not args or args[0] in ("-h", "--help"):
        _overview()
        return
    if args[0] not in METHODS:
        raise UserError(f"no method {args[0]!r} of alignment; " + did_you_mean(args[0], METHODS))
    parse(METHODS[args[0]], args[1:], command=f"align {args[0]}")


def _overview() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print("minideepseek align METHOD MODEL --option value ...\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, method in METHODS.items():
        table.add_row(f"[bold]{name}[/bold]", (method.__doc__ or "").splitlines()[0])
    console.print(table)
    console.print("\nminideepseek align METHOD --help explains each. A few minutes of it:")
    console.print("  minideepseek align sft v1-mini --wrong 0.3 --out runs/warm")
    console.print("  minideepseek align grpo runs/warm --out runs/practised")
    console.print("  minideepseek align exam runs/practised")


def _open(model: str, task: Task, seed: int) -> tuple[Transformer, Tokenizer]:
    """A new model of a generation with the task's tokenizer, or a saved one with its own, which must know the task."""
    if model in generations:
        tokenizer = tokenizer_for(task)
        # Modules that look ahead are pre-training's; here nothing would train them.
        cfg = replace(generations[model], vocab_size=tokenizer.vocab_size, mtp=None)
        return Transformer(cfg, seed=seed).eval(), tokenizer
    if not Path(model).is_dir():
        raise UserError(f"no generation and no folder {model!r}; " + did_you_mean(model, generations))
    found, tokenizer = load_pair(model)
    if tokenizer.decode(tokenizer.encode(task.alphabet)) != task.alphabet:
        raise UserError(f"the tokenizer of {model} lacks some of the characters of the task, {task.alphabet}")
    return found, tokenizer


def _teacher(folder: Path, tokenizer: Tokenizer) -> Transformer:
    teacher, theirs = load_pair(str(folder))
    if theirs.fingerprint != tokenizer.fingerprint:
        raise UserError(f"{folder} has another tokenizer than the student; teacher and student must share one")
    return teacher


def _learn(job: Job, task: Task, model: Transformer, tokenizer: Tokenizer, learning: Callable[..., object]) -> None:
    """Let the model learn, and say what it can; or, when it was interrupted, how to go on."""
    exercise = held_out_problems(task, 100, or_fewer=True)
    keep_memory()
    with threads(choose_threads()):
        try:
            learning(out=job.out, resume=job.resume)
        except Interrupted as stop:
            print(f"minideepseek: {stop}", file=sys.stderr)
            sys.exit(128 + stop.signum)
        print(f"{job.out}: {_line(examine(model, tokenizer, exercise))}")


def _line(found: Accuracy) -> str:
    k = max(found.pass_at)
    return (
        f"of {found.problems} held-out problems {found.pass_at[1]:.1%} right (± {found.error:.1%}), "
        f"in any of {k} attempts {found.pass_at[k]:.1%}, in the majority {found.majority_at[k]:.1%}; "
        f"{found.formatted:.1%} in format, {found.length:.1f} tokens"
    )
