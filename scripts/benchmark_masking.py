"""Measure a step of masked autoencoding: forward pass, loss and backward pass of a network in each of its forms.

    python scripts/benchmark_masking.py --variant v2_base --patch 64,64,64 --dtype float32,bfloat16

All forms take turns in one process, so that other work on the machine affects all of them, and a ratio is computed
within a round. Each step has a mask of its own. The table is printed and written to `NAME.md`, and all raw times to
`NAME.json`.
"""

import argparse
import gc
import time
from typing import Any

import torch
from benchmark import check_kernel_and_device, parse_count, parse_name, parse_output, parse_patch
from benchmark_models import synchronize, trim
from benchmark_report import quartiles, say, write_subject

from mednextv2.allocator import keep_freed_memory
from mednextv2.errors import InputError
from mednextv2.nets import VARIANTS, MaskedAutoencoder, create_mednext
from mednextv2.nets.masked_autoencoder import FORMS
from mednextv2.nets.nnunet import residual_encoder_unet
from mednextv2.ops import implementations
from mednextv2.training import BlockMasks, ReconstructionLoss

RESENC = "resenc_l"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse_dtypes(text: str) -> list[str]:
    """Read names of dtypes."""
    dtypes = list(dict.fromkeys(text.split(",")))
    if not set(dtypes) <= set(DTYPES):
        raise argparse.ArgumentTypeError(f"{text!r}: choose of {', '.join(DTYPES)}, joined by a comma")
    return dtypes


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with one line that names the option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--variant",
        choices=[*VARIANTS, RESENC],
        default="v2_base",
        help="size of MedNeXt, or resenc_l (default: v2_base)",
    )
    add("--kernel-size", type=parse_count, default=3, help="size of the depthwise kernels, an odd number (default: 3)")
    add("--patch", type=parse_patch, default=(64, 64, 64), help="patch in voxels, as 64,64,64 (the default)")
    add("--batch", type=parse_count, default=1, help="number of samples in a step (default: 1)")
    add("--block", type=parse_count, default=16, help="voxels of a cell along each axis (default: 16)")
    add("--ratio", type=float, default=0.75, help="fraction of hidden cells (default: 0.75)")
    add("--dtype", type=parse_dtypes, default=list(DTYPES), help="float32, bfloat16, or both (the default)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="device to measure on (default: cpu)")
    add("--rounds", type=parse_count, default=9, help="number of rounds (default: 9)")
    add("--threads", type=parse_count, help="number of PyTorch's threads on a CPU (default: PyTorch's choice)")
    add("--output", type=parse_output, default="docs/benchmarks/masked_autoencoder", help="folder for the results")
    add("--name", type=parse_name, help="name of the files (default: VARIANT-DEVICE)")
    options = parser.parse_args(arguments)
    check_kernel_and_device(parser, options)
    try:
        options.masks = BlockMasks(options.patch, options.block, options.ratio)
    except InputError as e:
        parser.error(f"arguments --patch, --block, --ratio: {e}")
    options.name = options.name or f"{options.variant}-{options.device}"
    return options


class Form:
    """A masked autoencoder of one form, and the step that is timed."""

    def __init__(self, form: str, dtype: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        if options.variant == RESENC:
            network = residual_encoder_unet(options.patch, [1.0] * 3, in_channels=1, out_channels=1)
        else:
            size = options.kernel_size
            network = create_mednext(options.variant, out_channels=1, kernel_size=size, activation_checkpointing=False)
        self.network = MaskedAutoencoder(network, form).to(options.device)
        self.dtype, self.options, self.loss = DTYPES[dtype], options, ReconstructionLoss()
        self.image = torch.randn(options.batch, 1, *options.patch, device=options.device)

    def seconds(self, step: int) -> float:
        """Run one step and return how long it took."""
        device, visible = self.image.device, self.options.masks.training(step, range(self.options.batch))
        synchronize(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            reconstruction = self.network(self.image, visible)
        loss = self.loss(reconstruction, self.image, visible)
        loss.backward()
        synchronize(device)
        seconds = time.perf_counter() - start
        if not loss.isfinite():
            raise RuntimeError("the loss is not finite")
        self.network.zero_grad(set_to_none=True)
        return seconds


def measure(dtype: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each form in one dtype, the dense one first."""
    forms = {form: Form(form, dtype, options) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for form in forms.values():
        form.seconds(0)
    for number in range(1, options.rounds + 1):
        for i in range(len(FORMS)):
            form = FORMS[(i + number) % len(FORMS)]  # so that no form always follows the same one
            times[form].append(forms[form].seconds(number))
        say(
            f"{dtype}: round {number} of {options.rounds}: " + ", ".join(f"{k} {t[-1]:.2f} s" for k, t in times.items())
        )
    choice = implementations.choose(options.device, DTYPES[dtype], options.kernel_size)
    used = "PyTorch" if options.variant == RESENC else f"{choice.name} ({choice.reason})"
    rows = []
    for form in FORMS:
        ratios = [own / dense for own, dense in zip(times[form], times[FORMS[0]], strict=True)]
        rows.append({
            "form": form, "dtype": dtype, "kernels": used, "seconds": times[form], "ratio": quartiles(ratios),
        })  # fmt: skip
    del forms
    gc.collect()
    trim()
    return rows


def benchmark_masking(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all forms in all dtypes, and make the table."""
    rows = [row for dtype in options.dtype for row in measure(dtype, options)]
    table = ["| form | dtype | kernels | ms | time ratio to dense | quartiles |", "|---|---|---|---:|---:|---|"]
    for row in rows:
        low, middle, high = row["ratio"]
        median = 1e3 * (quartiles(row["seconds"]) or [0.0] * 3)[1]
        table.append(
            f"| {row['form']} | {row['dtype']} | {row['kernels']} | {median:.0f} "
            f"| {middle:.2f} | {low:.2f} to {high:.2f} |"
        )
    hidden = int(options.ratio * options.masks.cells)
    method = (
        f"{options.variant}{'' if options.variant == RESENC else f', kernel size {options.kernel_size}'}, "
        f"batch {options.batch}, patch "
        f"{'×'.join(map(str, options.patch))}, cells of {options.block} voxels, of which {hidden} of "
        f"{options.masks.cells} are hidden; forward pass, loss and backward pass, without the optimizer, which is the "
        f"same for all forms. {options.rounds} rounds over all forms in turn, in one process, after one step that is "
        "not counted; a ratio is the median over the rounds of a form's time over that of the dense form in the same "
        "round. The C allocator keeps freed memory, as our bundles ask it to."
    )
    shown = {k: v for k, v in vars(options).items() if k not in ("output", "masks")}
    title = f"A step of masked autoencoding, {options.variant} on {options.device}"
    return {"title": title, "method": method, "options": shown, "rows": rows, "table": table}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    write_subject(benchmark_masking(options), options.output, options.name, torch.get_num_threads())


if __name__ == "__main__":
    main()
