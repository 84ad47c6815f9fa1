"""What drafting is worth: plain decoding against speculative decoding of one trained model, on the CPU.

    minideepseek train v3-mini --out DIR --steps 500        (about two minutes of a processor)
    python benchmarks/speculate.py DIR [--rounds 7] [--threads 1]

The model continues held-out text, eight prompts of 32 tokens, one after the other and all at once (then rows advance at
their own speeds), greedily and drawn at temperature 1. Reported are tokens a second, and of speculation the share of
drafts that stood and the tokens written for each pass of the model.

The limit: a pass over two tokens costs as much as over one, and drafting one block of L + 1. With the share a of drafts
that stand that is (1 + a) / (1 + 1/L) times plain decoding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import measure
import torch

import minideepseek as mds
from minideepseek.data import prepare

PROMPT, STEPS, ROWS = 32, 96, 8
HOW = {"greedy": {"temperature": 0.0}, "drawn": {"temperature": 1.0, "seed": 0}}
BATCHES = (1, ROWS)


def prompts(model: mds.Transformer) -> torch.Tensor:
    """Windows of held-out stories, (ROWS, PROMPT)."""
    valid = prepare("stories", vocab_size=model.cfg.vocab_size).valid
    starts = range(0, len(valid) - PROMPT, (len(valid) - PROMPT) // ROWS)
    return torch.stack([torch.from_numpy(valid[i : i + PROMPT].astype("int64")) for i in starts[:ROWS]])


def sampler(folder: str, *, speculative: bool) -> Callable[[], measure.Sample]:
    model = mds.load(folder)
    ids = prompts(model)

    def sample() -> measure.Sample:
        found: measure.Sample = {}
        for name, how in HOW.items():
            for batch in BATCHES:
                record = mds.Speculation()

                def work(batch: int = batch, how: dict = how, record: mds.Speculation = record) -> None:
                    for part in ids.split(batch):
                        mds.generate(
                            model, part, max_new_tokens=STEPS, speculative=record if speculative else False, **how
                        )

                found[f"{name} {batch}"] = measure.cpu_seconds(work)
                if speculative:
                    found[f"{name} {batch} acceptance"] = record.acceptance[0]
                    found[f"{name} {batch} tokens/pass"] = record.tokens_per_pass
        return found

    return sample


def same_text(folder: str) -> bool:
    """Whether greedy text is token-identical, alone and in a batch."""
    model = mds.load(folder)
    ids = prompts(model)
    texts = [
        torch.cat(
            [mds.generate(model, p, max_new_tokens=STEPS, temperature=0.0, speculative=s) for p in ids.split(batch)]
        )
        for s in (False, True)
        for batch in BATCHES
    ]
    return all(torch.equal(text, texts[0]) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="DIR", help="what `minideepseek train v3-mini --out DIR` wrote")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(args.model, speculative=args.contender == "speculative"))
        return
    contenders = [measure.Contender(name, args=(args.model,)) for name in ("plain", "speculative")]
    samples = measure.interleave(Path(__file__), contenders, rounds=args.rounds, threads=args.threads)
    tokens = ROWS * STEPS
    rows, limits = [], {}
    for name in HOW:
        for batch in BATCHES:
            case = f"{name} {batch}"
            plain, drafted = (measure.spread(samples, who, case).median for who in ("plain", "speculative"))
            stood = measure.spread(samples, "speculative", f"{case} acceptance").median
            limits[case] = (1 + stood) / (1 + 1 / mds.load(args.model).cfg.n_layers)
            rows.append(
                [
                    f"{name}, batch {batch}",
                    f"{tokens / plain:,.0f}",
                    f"{tokens / drafted:,.0f}",
                    f"{measure.ratio(samples, 'plain', 'speculative', case):.2f}",
                    f"{limits[case]:.2f}",
                    f"{100 * stood:.1f}",
                    f"{measure.spread(samples, 'speculative', f'{case} tokens/pass').median:.2f}",
                ]
            )
    header = ["", "plain tokens/s", "speculative tokens/s", "x plain", "limit", "drafts that stood, %", "tokens/pass"]
    trained = json.loads((Path(args.model) / "metrics.jsonl").read_text().splitlines()[-1])
    identical = same_text(args.model)
    text = (
        f"# Speculative decoding, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        f"v3-mini after {trained['step']} steps, {trained['tokens']:,} tokens (held out: {trained['valid_loss']:.3f} "
        f"nats a token). {ROWS} prompts of {PROMPT} tokens, {STEPS} more each. Ratios are of times, plain's to "
        f"speculative's, median (least-greatest) of the rounds. Greedy text is "
        f"{'identical, token by token' if identical else 'NOT identical'}.\n\n{measure.table(header, rows)}"
    )
    content = {"samples": samples, "trained": trained, "greedy text identical": identical, "limits": limits}
    measure.write_result("speculate", content, text)


if __name__ == "__main__":
    main()
