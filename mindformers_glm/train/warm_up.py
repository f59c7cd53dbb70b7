"""A run that ends before its learning rate has risen: said before the first step."""

from __future__ import annotations

from mindformers_glm.log import logger
from mindformers_glm.optim import Schedule


def warn_of_warm_up(schedule: Schedule, total_steps: int) -> None:
    """Warns when all `total_steps` lie inside the warm-up of `schedule`, or the rate is 0 at each of them."""
    warm = int(getattr(schedule, "warmup_steps", 0) or 0)
    place = getattr(schedule, "place", "lr_schedule")
    if total_steps > warm:
        return
    highest = schedule(total_steps - 1)
    if highest >= getattr(schedule, "learning_rate", highest + 1):
        return
    plural = "s lie" if total_steps > 1 else " lies"
    changes = "no weight will change" if highest == 0 else f"the rate rises to {highest:g} only"
    logger.warning(
        "%d step%s inside the warm-up of %d (%s.warmup_steps): %s. Lower warmup_steps, or train for more steps "
        "(epochs, smaller batches, fewer gradient_accumulation_steps).",
        total_steps, plural, warm, place, changes,
    )  # fmt: skip
