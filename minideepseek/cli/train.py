"""``minideepseek train``: train a generation; every field of its config and of the training settings is an option."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from minideepseek.cli import did_you_mean, parse
from minideepseek.data import prepare
from minideepseek.errors import UserError
from minideepseek.generations import generations
from minideepseek.model import ModelConfig
from minideepseek.parallel.team import joined
from minideepseek.train import Interrupted, TrainConfig, recipe, train

EXAMPLE = "v1-mini"  # whose defaults --help shows where no generation is named


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run. The generation stands first, because the defaults of the model's options are its own."""
    name = args[0] if args and not args[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(args):
        raise UserError("name a generation to train; " + did_you_mean("", generations))
    if name is not None and name not in generations:
        raise UserError(f"no generation {name!r}; " + did_you_mean(name, generations))
    options, settings = _model_options(generations[name or EXAMPLE]), recipe(name or EXAMPLE)

    def run(
        *,
        out: Path,
        data: str = "stories",
        fim_rate: float = 0.0,
        max_tokens: int | None = None,
        resume: bool = False,
        extend: Path | None = None,
        train: tyro.conf.OmitArgPrefixes[TrainConfig] = settings,
        model: options = options(),  # type: ignore[valid-type]  # noqa: B008  (frozen, made for this generation)
    ) -> None:
        """Train a generation, from nothing or from its last checkpoint.

        minideepseek train GENERATION --out DIR [options]

        A stopped run (Ctrl-C, a kill, a full disk) goes on with the same command and --resume, to the same numbers.
        DIR then holds metrics.jsonl, checkpoints/, and at the end the model, for generate and for transformers.
        With several GPUs: torchrun --nproc-per-node N -m minideepseek train ...; they share every batch.

        Args:
            out: folder for metrics, checkpoints and the model.
            data: stories (generated), python (this Python's own library), file:PATH (txt, jsonl, parquet, or a folder
                of them), hub:NAME (online).
            fim_rate: share of documents in fill-in-the-middle order; V3 uses 0.1.
            max_tokens: use at most this many tokens of the corpus.
            resume: go on from the newest whole checkpoint in DIR.
            extend: go on from this checkpoint of a shorter run, with more --steps, into a new DIR.
            train: how it is trained.
            model: the model itself.
        """
        _train(name or EXAMPLE, out, data, fim_rate, max_tokens, resume, extend, train, _model(model))

    parse(run, args[1:] if name is not None else args, command="train")


def _model_options(cfg: ModelConfig) -> type:
    """A dataclass like ``ModelConfig`` whose parts have the types they have in ``cfg``.

    So the options of v1-mini include --model.attention.n-heads, because its attention is a GQA. What differs from layer
    to layer is not an option.
    """
    hints = get_type_hints(ModelConfig)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(ModelConfig):
        value = getattr(cfg, field.name)
        # What one of several configs may fill has the options of the one that does.
        kind: Any = hints[field.name]
        if dataclasses.is_dataclass(value):
            kind = Annotated[type(value), tyro.conf.AvoidSubcommands]
        if isinstance(value, tuple):
            kind = Annotated[Any, tyro.conf.Fixed]
        fields.append((field.name, kind, dataclasses.field(default=value)))
    options = dataclasses.make_dataclass("Model", fields, frozen=True, kw_only=True)
    options.__doc__ = ModelConfig.__doc__
    return options


def _model(options: Any) -> ModelConfig:
    try:
        return ModelConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(options)})
    except ValueError as error:
        raise UserError(f"these --model options do not make a model: {error}") from None


def _train(
    name: str,
    out: Path,
    corpus: str,
    fim_rate: float,
    max_tokens: int | None,
    resume: bool,
    extend: Path | None,
    settings: TrainConfig,
    model: ModelConfig,
) -> None:
    if extend is not None and resume:
        raise UserError("--resume goes on in the same folder, --extend begins a new one: give one of them")
    with joined() as team:
        if team.rank:  # the first makes the corpus, the others find it
            team.wait()
        # It is prepared for the model's whole vocabulary; a small corpus may end up with a smaller tokenizer.
        data = prepare(
            corpus, vocab_size=model.vocab_size, max_tokens=max_tokens, fim_rate=fim_rate, seed=settings.seed
        )
        if not team.rank:
            team.wait()
        try:
            result = train(model, data, settings, out=out, resume=extend or resume)
        except Interrupted as stop:
            if not team.rank:
                print(f"minideepseek: {stop}", file=sys.stderr)
            sys.exit(128 + stop.signum)
    if team.rank:
        return
    last = result.metrics[-1]
    held_out = [record for record in result.metrics if "valid_loss" in record]
    line = f"{name}: {last['step']} steps, {last['tokens']:,} tokens, loss {last['loss']:.3f}"
    if held_out:
        line += f"; held out {held_out[-1]['valid_loss']:.3f} nats/token"
        line += f" = {held_out[-1]['valid_bits_per_byte']:.3f} bits/byte"
    print(f'{line}\nnow try: minideepseek generate {out} --prompt "Once upon a time"')
