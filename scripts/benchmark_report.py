"""Ratios, tables and files from the numbers of `benchmark.py`, with a description of the machine."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
)
PACKAGES = ("torch", "monai", "dynamic-network-architectures", "mednextv2", "numpy", "triton", "onnxruntime")
NAMES = {"ours": "ours", "monai": "MONAI", "resenc_l": "ResEnc-L", "onnxruntime": "ONNX Runtime"}

ONNX = (
    "ONNX Runtime runs our network with the same weights, as `mednextv2 export --format onnx` writes it, with as many "
    "threads. It keeps freed memory, as our rows with malloc do. Labels are compared with those of ours float32 on the "
    "same batch, after the mean of the logits of each class was subtracted, so that all classes are frequent; with "
    "fewer than 99.99 % of equal labels, the row fails."
)


# --- the machine -----------------------------------------------------------------------------------------------------


def scrub(text: str) -> str:
    """Remove private information: the folders in paths, and the host's name."""
    text = re.sub(r"(?<![\w.])~?/(?:[^\s/:'\"()]+/)+", "", text)
    host = platform.node()
    return re.sub(rf"\b{re.escape(host)}\b", "host", text) if host else text


def one_line(error: BaseException) -> str:
    """Return an exception as one line without paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return scrub(f"{type(error).__name__}: {lines[0] if lines else ''}")[:200]


def describe_machine() -> dict[str, Any]:
    """Return the CPU's model and flags, cores and memory; nothing that names the machine or its user."""
    model, flags, memory = platform.machine(), [], None
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", text, flags=re.MULTILINE))
        model = fields.get("model name", model)
        present = (fields.get("flags") or fields.get("Features") or "").split()
        flags = [flag for flag in CPU_FLAGS if flag in present]
    if Path("/proc/meminfo").exists():
        kib = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
        memory = round(int(kib[1]) / 2**20, 1) if kib else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cpu_flags": flags, "cores": cores, "memory_gib": memory, "system": platform.system()}


def describe_versions() -> dict[str, str | None]:
    """Return the versions of Python and the packages, and the git commit, with `-dirty` if files were changed."""
    import torch  # its own version names its CUDA, which that of its package may not

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = str(torch.__version__) if name == "torch" else metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(commit, cwd=Path(__file__).parent, capture_output=True, text=True)
        versions["commit"] = answer.stdout.strip() or None
    except OSError:  # git is missing
        versions["commit"] = None
    return versions


# --- statistics ------------------------------------------------------------------------------------------------------


def quartiles(values: list[float]) -> list[float] | None:
    """Return the first quartile, median and third quartile, or None without values."""
    if len(values) < 2:
        return values * 3 or None
    return statistics.quantiles(values, n=4, method="inclusive")


def ratios(row: dict[str, Any], reference: dict[str, Any]) -> list[float]:
    """Return the row's median time divided by that of the reference, for every round that both finished."""
    pairs = zip(row["rounds"], reference["rounds"], strict=False)  # a failed row has fewer rounds
    return [statistics.median(times) / statistics.median(own) for times, own in pairs]


def finish_section(section: dict[str, Any], rates: dict[str, Any], work: dict[str, Any]) -> None:
    """Add derived numbers to a section's rows: medians, ratios, multiples of the hardware's limit, a summary.

    Args:
        section: `what`, `patch` and `rows`; a row has `competitor`, `setting`, `dtype`, `rounds`, `memory`, `error`.
        rates: Rates from the probe: multiply-accumulates per second by dtype, and bytes per second of a copy.
        work: Work of our network for this section, from the probe.
    """
    rows = section["rows"]
    section["work"], section["floor_seconds"] = work, {}
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        arithmetic = work["macs"] / rates[f"{dtype}_macs"]
        # parameters are float32 under autocast, too
        traffic = (work["activations"] * size + work["parameters"] * 4) / rates["copy_bytes"]
        section["floor_seconds"][dtype] = max(arithmetic, traffic)
    for row in rows:
        row["seconds"] = quartiles([statistics.median(times) for times in row["rounds"]])
    ours = [row for row in rows if row["competitor"] == "ours" and row["error"] is None and row["seconds"]]
    base = next((row for row in ours if row["setting"] == "float32"), ours[0] if ours else None)
    fastest = min(ours, key=lambda row: row["seconds"][1], default=None)
    section["reference"] = base and base["setting"]
    section["fastest_ours"] = fastest and fastest["setting"]
    for row in rows:
        timed = row["seconds"] is not None
        row["ratio"] = quartiles(ratios(row, base)) if base and timed else None
        row["ratio_to_fastest"] = quartiles(ratios(row, fastest)) if fastest and timed else None
        peaks = [r and r["memory"] and r["memory"]["peak_above_baseline_bytes"] for r in (row, base)]
        row["memory_ratio"] = peaks[0] / peaks[1] if all(peaks) else None
        same_network = row["competitor"] != "resenc_l"
        row["times_floor"] = (
            row["seconds"][1] / section["floor_seconds"][row["dtype"]] if timed and same_network else None
        )
    section["summary"] = summarise(section)


def summarise(section: dict[str, Any]) -> list[str]:
    """Return the lines that compare our fastest row with MONAI as shipped and with its best setting by hand.

    Rows whose allocator keeps freed memory are compared with each other, since that is a setting of the process. ONNX
    Runtime keeps freed memory itself; it is compared with each of our rows in float32, and with our fastest.
    """
    lines = []
    for malloc in (False, True):
        timed = [r for r in section["rows"] if r["seconds"] and r["error"] is None]
        rows = [r for r in timed if ("malloc" in r["setting"].split("+")) == malloc]
        ours = min((r for r in rows if r["competitor"] == "ours"), key=lambda r: r["seconds"][1], default=None)
        monai = sorted((r for r in rows if r["competitor"] == "monai"), key=lambda r: r["seconds"][1])
        chosen = [("MONAI as shipped", r) for r in monai if r["setting"] == "shipped"]
        chosen += [(f"MONAI's best by hand ({r['setting']})", r) for r in monai if r["setting"] != "shipped"][:1]
        lines += [compare(title, row, ours) for title, row in chosen if ours]
    onnx = next((r for r in timed if r["competitor"] == "onnxruntime"), None)
    for ours in [r for r in timed if r["competitor"] == "ours"] if onnx else []:
        if ours["dtype"] == "float32" or ours["setting"] == section["fastest_ours"]:
            lines.append(compare("ONNX Runtime", onnx, ours))
    if onnx:
        lines.append(f"ONNX Runtime's labels equal ours (float32) in {100 * onnx['equal_labels']:.4f} % of the voxels")
    return lines


def compare(title: str, row: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return a line about the time of another network's row, and about our peak memory."""
    low, middle, high = quartiles(ratios(row, ours))
    line = f"{title} takes {middle:.2f}× the time of ours ({ours['setting']}), quartiles {low:.2f} to {high:.2f}"
    peaks = [r["memory"]["peak_above_baseline_bytes"] for r in (ours, row)]
    return f"{line}; ours has {peaks[0] / peaks[1]:.2f}× its peak memory" if all(peaks) else line


# --- output ----------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """Format a number, or return a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_section(section: dict[str, Any]) -> list[str]:
    """Return one section as the lines of a markdown table with its summary."""
    patch, reference = "×".join(map(str, section["patch"])), section["reference"]
    floors = ", ".join(f"{dtype} {seconds * 1e3:.2f} ms" for dtype, seconds in section["floor_seconds"].items())
    lines = [f"## {section['what']}, patch {patch}, batch {section['batch']}", ""]
    if reference:
        lines += [
            f"Ratios are to ours {reference}; the last one to ours {section['fastest_ours']}, the fastest of ours."
        ]
    else:
        lines += ["There are no ratios, since none of our rows could be measured."]
    lines += [f"Floor: {floors}.", ""]
    onnx = any(row["competitor"] == "onnxruntime" for row in section["rows"])
    lines += [ONNX, ""] if onnx else []
    titles = (
        "competitor,setting,time ratio,quartiles,ms,peak memory (MiB),memory ratio,× floor,compile (s),ratio to fastest"
    )
    titles += ",labels equal to ours" * onnx
    lines += ["| " + " | ".join(titles.split(",")) + " |", "|---|---|" + "---:|" * (8 + onnx)]
    for row in section["rows"]:
        cells = [NAMES[row["competitor"]], row["setting"]]
        if row["error"]:
            lines.append(
                "| " + " | ".join([*cells, "failed: " + row["error"].replace("|", "\\|"), *[""] * (7 + onnx)]) + " |"
            )
            continue
        low, middle, high = row["ratio"] or [None] * 3
        memory = row["memory"]["peak_above_baseline_bytes"] / 2**20
        cells += [number(middle), f"{number(low)} to {number(high)}", number(row["seconds"][1] * 1e3, 1)]
        cells += [number(memory, 0), number(row["memory_ratio"]), number(row["times_floor"], 1)]
        cells += [number(row["compile_seconds"], 1), number((row["ratio_to_fastest"] or [0, None])[1])]
        if onnx:
            equal = row["equal_labels"]
            cells.append("–" if equal is None else f"{100 * equal:.4f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- {line}" for line in section["summary"]), ""]


def format_report(report: dict[str, Any]) -> str:
    """Return the whole report as markdown."""
    machine, options, gpu = report["machine"], report["options"], report["gpu"]
    hardware = (
        f"{machine['cpu']} ({' '.join(machine['cpu_flags'])}), {machine['cores']} cores, {machine['memory_gib']} GiB"
    )
    if gpu:
        hardware += f"; {gpu['name']}, {gpu['memory_gib']} GiB"
    rates = report["rates"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    lines = [
        f"# {options['variant']} on {options['device']}",
        "",
        f"- Hardware: {hardware}; {report['threads']} threads.",
        f"- Versions: {versions}.",
        f"- Method: {options['rounds']} rounds over all rows in turn; in each a row runs one step that is not "
        f"counted, then at least {options['repeats']} steps and {options['min_time']:g} s. A ratio is the median over "
        "the rounds of the row's median time over that of ours in the same round: below 1 is faster than ours.",
        "- Each row has a process of its own. Peak memory is above that of network and batch, in two steps after a "
        "warm-up, without what torch.compile keeps for itself. malloc: the C allocator keeps freed memory instead of "
        "returning it to the system, as our bundles ask it to; the other rows have the default.",
        f"- Floor: our network's multiply-accumulates at the rate of a {rates['matrix_size']}³ matrix product "
        f"(float32 {rates['float32_macs'] / 1e9:.0f} G/s, bfloat16 {rates['bfloat16_macs'] / 1e9:.0f} G/s), or its "
        f"least traffic at the rate of a copy ({rates['copy_bytes'] / 1e9:.1f} GB/s), whichever takes longer.",
        "",
    ]
    for section in report["sections"]:
        lines += format_section(section)
    return "\n".join(lines)


def write_report(report: dict[str, Any], folder: Path, name: str) -> None:
    """Write `name.json` and `name.md`, each under a temporary name first."""
    _write(report, format_report(report), folder, name)


def _write(report: dict[str, Any], page: str, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(report, indent=1, ensure_ascii=False)), (".md", page)):
        temporary = folder / f".{name}{suffix}.{os.getpid()}"
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
        os.replace(temporary, folder / f"{name}{suffix}")


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def write_subject(report: dict[str, Any], folder: Path, name: str, threads: int) -> None:
    """Write the numbers and the table of a subject other than the network, and print the table.

    Args:
        report: A dict with `title`, `method`, `rows` and `table`, the lines of Markdown.
        folder: The folder for the files.
        name: The name of the files, without ending.
        threads: The number of threads with which PyTorch computed.
    """
    report = {"hardware": describe_machine(), "threads": threads, "versions": describe_versions(), **report}
    machine, versions = report["hardware"], {k: v for k, v in report["versions"].items() if v}
    head = [
        f"# {report['title']}",
        "",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB.",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in versions.items())}.",
        f"- Method: {report['method']}",
        "",
    ]
    _write(report, "\n".join([*head, *report["table"]]), folder, name)
    print("\n".join(report["table"]))
