"""A module that predicts the time of a launch from compiled code; the command is `gpu_predict_step.py`.

Triton's first intermediate form of a kernel has its loops and their bounds, which are computed here for a sample of the
programs. The machine code has the same loops, whose instructions are counted and multiplied by how often a loop runs.
The slowest of these determines the time: issuing all instructions, the pipe of integer and logic instructions, that of
special functions, or memory, where every tensor moves once; half of the matrix unit's time is added. On an H100,
predictions were within 40 %. A prediction is not a measurement, and every table says so.
"""

import math
import re
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

from gpu_capture import Launch, TensorSpec
from gpu_compile import Compiled, disassemble


class Machine(NamedTuple):
    """The capacities of a GPU.

    Attributes:
        processors: The number of multiprocessors.
        clock: The clock rate in Hz.
        bandwidth: The bytes per second of a copy.
        matrix: The floating-point operations per second of a product in half precision.
    """

    processors: int
    clock: float
    bandwidth: float
    matrix: float


H100 = Machine(132, 1.755e9, 3.0e12, 650e12)  # measured: copies of 3.0 TB/s, products of 650 to 790 TFLOP/s
MACHINES = {90: H100}  # by compute capability; no other GPU was compared with measurements
ISSUE = 0.75  # share of the cycles in which an instruction is issued, in a well-filled kernel
LAUNCH = 3e-6  # seconds of the smallest launch
SAMPLE = 8  # number of programs and iterations whose trips are computed
WARPS, REGISTERS, SHARED = 64, 65536, 227 * 1024  # the limits of a multiprocessor


class Prediction(NamedTuple):
    """The prediction for a launch.

    Attributes:
        seconds: The time of the launch.
        limit: What limits it: issuing all `instructions`, the pipe of those on `integers` or of special `functions`,
            `memory`, or the `launch` itself.
        instructions: The number of instructions that all warps execute.
        nbytes: The number of bytes of its tensors.
        flops: The floating-point operations of the matrix unit.
    """

    seconds: float
    limit: str
    instructions: float
    nbytes: int
    flops: float


# --- trips: Triton's first form --------------------------------------------------------------------------------------


class Loop:
    """A loop of the kernel, or the kernel as a whole: its operations, in order."""

    def __init__(self, bounds: tuple[str, str, str, str] | None = None, condition: str | None = None) -> None:
        self.bounds, self.condition = bounds, condition  # variable, first, end and step; or the values in the condition
        self.body: list[Loop | tuple[str, str, str]] = []
        self.number = -1  # index among all loops, in the order in which they begin


def parse(ttir: str) -> tuple[Loop, list[bool]]:
    """Return a kernel's loops as a tree, and whether each has constant bounds, in the order in which they begin."""
    root = Loop()
    stack, fixed = [root], []
    constants = set(re.findall(r"(%\w+) = arith\.constant", ttir))
    for line in ttir[ttir.index("tt.func public") :].splitlines()[1:]:
        line = re.sub(r"\s*loc\(.*$", "", line.strip())
        closed = stack.pop() if line.startswith("}") and len(stack) > 1 else None
        if found := re.match(r"(?:%\S+ = )?scf\.for (%\S+) = (%\S+) to (%\S+) step (%\S+)", line):
            inner = Loop(found.groups())
            inner.number = len(fixed)
            fixed.append(constants.issuperset(found.groups()[1:]))
        elif line.endswith(("{", "({")):
            condition = re.match(r"(?:%\S+ = )?scf\.if (%\S+)", line)
            other = f"not {closed.condition}" if closed and line.startswith("} else") else None
            inner = Loop(condition=condition[1] if condition else other)
        else:
            if assigned := re.match(r"(%\w+) = ([\w.]+) ?(.*)", line):
                stack[-1].body.append(assigned.groups())
            continue
        stack[-1].body.append(inner)
        stack.append(inner)
    return root, fixed


_BINARY = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "divsi": lambda a, b: int(a / b),
    "divui": lambda a, b: a // b,
    "remsi": lambda a, b: int(math.fmod(a, b)),
    "remui": lambda a, b: a % b,
    "ceildivsi": lambda a, b: -(-a // b),
    "floordivsi": lambda a, b: a // b,
    "minsi": min,
    "minui": min,
    "maxsi": max,
    "maxui": max,
    "andi": lambda a, b: a & b,
    "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b,
    "shli": lambda a, b: a << b,
    "shrsi": lambda a, b: a >> b,
}
_WORDS = {"true": 1, "false": 0}
_COMPARE = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}


def compute(operation: str, rest: str, known: dict[str, int], grid: tuple[int, ...], program: tuple[int, ...]) -> Any:
    """Return the value of one operation on whole numbers, or None if it is another operation or unknown."""
    kind, values = operation.removeprefix("arith."), re.findall(r"%\w+", rest)
    if operation in ("tt.get_program_id", "tt.get_num_programs"):
        return (program if operation == "tt.get_program_id" else grid)["xyz".index(rest[0])]
    if operation == "arith.constant":
        number = re.match(r"(-?\d+|true|false)(?= :|$)", rest)
        return None if number is None else _WORDS[number[1]] if number[1] in _WORDS else int(number[1])
    if "tensor<" in rest or not operation.startswith("arith.") or any(v not in known for v in values):
        return None
    numbers = [known[v] for v in values]
    if kind in _BINARY:
        return _BINARY[kind](*numbers)
    if kind == "cmpi":
        return int(_COMPARE[rest.split(",")[0]](*numbers)) if rest.split(",")[0] in _COMPARE else None
    if kind == "select":
        return numbers[1] if numbers[0] else numbers[2]
    return numbers[0] if kind in ("extsi", "extui", "trunci", "index_cast") else None


class Trips(NamedTuple):
    """How often the body of a loop runs in a program.

    Attributes:
        times: The average over a sample of programs.
        fixed: Whether its bounds are constants, so that the compiler may unroll the loop completely.
    """

    times: float
    fixed: bool


def count_trips(launch: Launch, ttir: str) -> list[Trips]:
    """Return how often every loop runs, in the order in which they begin."""
    root, fixed = parse(ttir)
    arguments = {f"%{k}": v for k, v in launch.arguments.items() if isinstance(v, int)}
    grid = (*launch.grid, 1, 1)[:3]
    total = math.prod(grid)
    # spread over the grid, with all remainders, since programs often alternate by remainder
    chosen = sorted({(total * i // SAMPLE // SAMPLE * SAMPLE + i) % total for i in range(SAMPLE)})
    trips = [0.0] * len(fixed)
    for index in chosen:
        program = (index % grid[0], index // grid[0] % grid[1], index // (grid[0] * grid[1]))
        _walk(root, dict(arguments), grid, program, 1 / len(chosen), trips)
    return [Trips(*pair) for pair in zip(trips, fixed, strict=True)]


def match(loops: int, trips: list[Trips]) -> list[float] | None:
    """Return the trips of the machine code's loops, or None if they cannot be determined.

    Loops with constant bounds that are missing in the machine code were unrolled there: the shortest ones.
    """
    gone = sorted((i for i, loop in enumerate(trips) if loop.fixed), key=lambda i: (trips[i].times, -i))
    missing = len(trips) - loops
    if not 0 <= missing <= len(gone):
        return None
    return [loop.times for i, loop in enumerate(trips) if i not in gone[:missing]]


def _walk(
    loop: Loop, known: dict[str, int], grid: tuple[int, ...], program: tuple[int, ...], times: float, trips: list[float]
) -> None:
    """Add to `trips` how often the loops inside a loop run, which itself runs `times` times."""
    for part in loop.body:
        if isinstance(part, tuple):
            name, operation, rest = part
            value = compute(operation, rest, known, grid, program)
            if value is not None:
                known[name] = value
        elif part.bounds is None:
            condition = part.condition or ""
            value = known.get(condition.removeprefix("not "))
            if value is None or bool(value) != condition.startswith("not "):
                _walk(part, dict(known), grid, program, times, trips)
        else:
            variable, *bounds = part.bounds
            first, end, step = (known.get(bound) for bound in bounds)
            values = range(first, end, step) if None not in (first, end, step) else range(1)
            trips[part.number] += times * len(values)
            for i in sorted({len(values) * j // SAMPLE for j in range(SAMPLE)} if values else ()):
                share = times * len(values) / min(SAMPLE, len(values))
                _walk(part, {**known, variable: values[i]}, grid, program, share, trips)


# --- instructions: the machine code ----------------------------------------------------------------------------------


class Code(NamedTuple):
    """Instructions by kind in the whole kernel, and in each loop without the loops inside it."""

    outside: Counter
    loops: list[Counter]


def read_code(sass: str) -> Code:
    """Count the instructions of disassembled machine code; loops are in the order in which they begin."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", sass, flags=re.MULTILINE)
    places = {int(address, 16): i for i, (address, _) in enumerate(lines)}
    ends: dict[int, int] = {}
    for i, (address, text) in enumerate(lines):
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < int(address, 16):  # backwards; the last instruction jumps to itself
            ends[places[int(target[1], 16)]] = i
    starts = sorted(ends)
    counters = [Counter() for _ in starts]
    outside: Counter = Counter()
    for i, (_, text) in enumerate(lines):
        inside = [n for n, start in enumerate(starts) if start <= i <= ends[start]]
        (counters[inside[-1]] if inside else outside).update(_kinds(text))
    return Code(outside, counters)


def _kinds(text: str) -> dict[str, float]:
    """Return the kinds of an instruction, and the floating-point operations of a warp in the matrix unit."""
    words = re.sub(r"^@!?U?P\w+\s+", "", text).split()
    name, *parts = words[0].split(".")
    kinds: dict[str, float] = {"all": 1}
    if name in ("HGMMA", "HMMA"):
        size = parts[0]
        if "x" in size:  # the size for four warps together
            m, n, k = map(int, size.split("x"))
            kinds["flops"] = 2 * m * n * k / 4
        else:  # such as 16816
            kinds["flops"] = 2 * 16 * 8 * int(size[3:])
    elif name.startswith(("FFMA", "FMUL", "FADD", "IMAD")):
        kinds["fused"] = 1
    elif name == "MUFU":
        kinds["functions"] = 1
    elif name.startswith(("I", "L3", "LOP", "SHF", "SEL", "PRMT", "FSEL", "FSETP", "FMNMX", "F2FP", "PLOP", "MOV")):
        kinds["integers"] = 1
    return kinds


@cache
def _analyse(cubin: bytes) -> Code:
    return read_code(disassemble(cubin, "-sass"))


# --- the prediction --------------------------------------------------------------------------------------------------


def predict(launch: Launch, compiled: Compiled, machine: Machine) -> Prediction | None:
    """Predict a launch, or return None if the machine code has more loops than Triton's first form."""
    code = _analyse(compiled.cubin)
    trips = match(len(code.loops), count_trips(launch, compiled.ttir))
    if trips is None:
        return None
    warps = dict(compiled.job.options)["num_warps"]
    programs = math.prod(launch.grid)
    executed: Counter = Counter(code.outside)
    for loop, times in zip(code.loops, trips, strict=True):
        executed.update({kind: n * times for kind, n in loop.items()})
    executed = Counter({kind: n * warps * programs for kind, n in executed.items()})
    nbytes = sum(a.nbytes for a in launch.arguments.values() if isinstance(a, TensorSpec))
    cycles = machine.processors * 4 * machine.clock * _busy(programs, _resident(compiled, warps), machine.processors)
    seconds = {
        "instructions": executed["all"] / cycles / ISSUE,
        "integers": 2 * executed["integers"] / cycles,  # the pipe has half as many lanes as a warp
        "functions": 8 * executed["functions"] / cycles,
        "memory": nbytes / machine.bandwidth / 0.9,
    }
    limit = max(seconds, key=lambda name: seconds[name])
    matrix = executed["flops"] / machine.matrix
    total = seconds[limit] + matrix / 2
    if total < LAUNCH:
        total, limit = LAUNCH, "launch"
    return Prediction(total, limit, executed["all"], nbytes, executed["flops"])


def _resident(compiled: Compiled, warps: int) -> int:
    """Return how many programs a multiprocessor holds."""
    registers = -(-compiled.registers // 8) * 8 * 32 * warps
    return max(1, min(REGISTERS // max(registers, 1), WARPS // warps, SHARED // (compiled.shared + 1024), 32))


def _busy(programs: int, resident: int, processors: int) -> float:
    """Return the share of the multiprocessors' time in which they have work: the last wave may be small."""
    if programs >= processors * resident:
        waves = math.ceil(programs / (processors * resident))
        return programs / (waves * processors * resident)
    return programs / processors / math.ceil(programs / processors)
