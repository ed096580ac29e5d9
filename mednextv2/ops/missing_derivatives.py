"""What our operators have no derivatives of."""

from typing import Any

import torch


def first_only(operator: torch.library.CustomOpDef, name: str) -> None:
    """Let the backward pass of an operator's backward pass end with a reason and a way out.

    Args:
        operator: The backward operator.
        name: Of the operator that it belongs to, as users know it.
    """

    def fail(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            f"mednextv2.ops.{name} has first derivatives only; inside `with mednextv2.ops.use('reference'):` its plain "
            "definition takes its place, which has all"
        )

    operator.register_autograd(fail)
