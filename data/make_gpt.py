"""Pre-train ``sotu_gpt.safetensors``, where the task ``sotu-gpt`` starts, on the messages of 1934–1969.

    python data/make_gpt.py

Needs the project itself and ``sotu.txt.xz``; one core, some minutes. Windows of 65 characters at random places of
the earlier messages; AdamW with a cosine rate, weight decay 0.1, batch 32. Stored as float16. Another PyTorch or
processor may round otherwise and so give another file.
"""

from __future__ import annotations

import math
import sys

import safetensors.torch
import torch
from packing import ship_bytes
from torch.nn import functional

from tda_backend.models.tasks.built_in.gpt import GPT
from tda_backend.models.tasks.built_in.language import CONTEXT, FIRST_MODERN_YEAR, SOTU_SHAPE, encode, speeches
from tda_backend.seeds import hashed_seed

STEPS, BATCH, RATE, WARMUP, DECAY = 6000, 32, 3e-3, 200, 0.1
HELD_OUT = 3  # the last of the earlier messages, for the printed loss alone


def mean_loss(model: GPT, symbols: torch.Tensor) -> float:
    """Return the mean loss in bits per character over windows that follow each other."""
    windows = symbols[: (len(symbols) - 1) // CONTEXT * CONTEXT + 1]
    inputs, targets = windows[:-1].view(-1, CONTEXT), windows[1:].view(-1, CONTEXT)
    with torch.no_grad():
        loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    return float(loss) / math.log(2)


def main() -> None:
    """Train and ship."""
    torch.set_num_threads(1)
    torch.manual_seed(hashed_seed("sotu-gpt", "pre-training"))
    earlier = [encode(speech.text + "\n") for speech in speeches() if speech.year < FIRST_MODERN_YEAR]
    text, held_out = torch.cat(earlier[:-HELD_OUT]), torch.cat(earlier[-HELD_OUT:])
    model = GPT(SOTU_SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY)
    places = torch.arange(CONTEXT + 1)
    for step in range(STEPS):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["lr"] = rate
        windows = text[torch.randint(len(text) - CONTEXT, (BATCH, 1)) + places]
        loss = functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}: {mean_loss(model, held_out):.3f} bits per character held out", flush=True)
    state = {name: value.half() for name, value in model.state_dict().items()}
    ship_bytes("sotu_gpt.safetensors", safetensors.torch.save(state))


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    main()
