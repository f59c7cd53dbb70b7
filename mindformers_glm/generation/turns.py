"""The next tokens of all requests of a step, chosen together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_glm.generation.interface import Step
from mindformers_glm.generation.job import Job
from mindformers_glm.generation.sampling import Asked, Choice, check_numbers, choices
from mindformers_glm.generation.search import Samples


class Turn:
    """A request whose open sequences get tokens: sequence r from row `places[r]` of the logits, all from one row after
    the prompt.

    `guesses[r]` were computed after its newest token: for each that is right the next row of logits counts as well.
    What comes of it is `step`, or the `error` of one of the request's own functions.
    """

    def __init__(self, job: Job, places: Sequence[int], guesses: Sequence[Sequence[int]] = ()) -> None:
        self.job, self.guesses = job, guesses
        self.places = list(places)
        self.step: Step | None = None
        self.error: BaseException | None = None
        self.chosen: list[list[int]] = [[] for _ in self.places]

    def ask(self, samples: Samples, row: int, place: int) -> Asked | None:
        """What a sequence wants of its logits; None when the request is over by an error."""
        try:
            return None if self.error else Asked(place, samples.ask(row), samples.config)
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits for this request
            self.error = error
            return None

    def take(self, samples: Samples, row: int, choice: Choice | BaseException) -> bool:
        """Gives a sequence a token; whether it gets another from the next row of logits."""
        if self.error is not None or isinstance(choice, BaseException):
            self.error = self.error or choice  # type: ignore[assignment]
            return False
        try:
            token, goes_on = samples.take(row, choice)
            guesses, done = self.guesses[row] if self.guesses else (), len(self.chosen[row])
            self.chosen[row].append(choice.token)
            self.job.ticket.push(token)
        except BaseException as error:  # noqa: BLE001
            self.error = error
            return False
        return goes_on and done < len(guesses) and guesses[done] == choice.token

    def close(self, samples: Samples) -> None:
        """After the last tokens of its sequences."""
        if self.error is None:
            going = samples.close_step()
            accepted = [len(tokens) - 1 for tokens in self.chosen]
            parents = [0] * len(going) if len(set(self.places)) == 1 else going
            self.step = Step(parents, [self.chosen[row][-1] for row in going], [], accepted)

    def advance(self, logits: np.ndarray) -> None:
        """The same of a search that looks at all its sequences together."""
        try:
            mine = logits[self.places]
            check_numbers(mine)
            step = self.job.search.advance(mine)
            for event in step.events:
                self.job.ticket.push(event)
            self.step = step
        except BaseException as error:  # noqa: BLE001
            self.error = error


def take_turns(turns: Sequence[Turn], logits: np.ndarray) -> None:
    """Gives every turn its `step` or its `error`. Sequences of all requests are chosen in one call, and where guesses
    were right the next tokens of these sequences in another.
    """
    waiting: list[tuple[Turn, Samples, int, int]] = []
    for turn in turns:
        search = turn.job.search
        if isinstance(search, Samples):
            waiting += [(turn, search, row, place) for row, place in enumerate(turn.places)]
        else:
            turn.advance(logits)
    while waiting:
        asked = [turn.ask(samples, row, place) for turn, samples, row, place in waiting]
        waiting = [one for one, wish in zip(waiting, asked, strict=True) if wish is not None]
        chosen = choices(logits, [wish for wish in asked if wish is not None])
        waiting = [
            (turn, samples, row, place + 1)
            for (turn, samples, row, place), choice in zip(waiting, chosen, strict=True)
            if turn.take(samples, row, choice)
        ]
    for turn in turns:
        if isinstance(turn.job.search, Samples):
            turn.close(turn.job.search)


def places_after_prompt(job: Job, place: int) -> list[int]:
    """Where the open sequences of a request find their logits when the prompt's last ones are row `place`."""
    return [place] * (job.search.num_open if isinstance(job.search, Samples) else 1)
