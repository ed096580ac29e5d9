"""The derivatives that our operators do not have."""

from typing import Any

import torch


def first_only(operator: torch.library.CustomOpDef, name: str) -> None:
    """Let second derivatives of an operator end with an error that gives the reason and an alternative.

    Args:
        operator: The backward operator.
        name: The name of the operator to which it belongs, as users know it.
    """

    def fail(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            f"mednextv2.ops.{name} has first derivatives only; inside `with mednextv2.ops.use('reference'):` its plain "
            "definition takes its place, which has all"
        )

    operator.register_autograd(fail)
