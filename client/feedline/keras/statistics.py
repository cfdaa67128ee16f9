"""What happened to the batches that Keras asked for."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened to the batches asked for until now."""

    requests: int = 0
    """Batches asked for."""
    ready: int = 0
    """Of these, already there when asked for."""
    waited_s: float = 0.0
    """Seconds spent waiting for batches."""
    passes_s: float = 0.0
    """Seconds from the first request of a pass to its last answer, over all passes: compute and waiting."""
    surprises: int = 0
    """Passes that Keras drove in another order than it had announced; they were served without read-ahead."""
    bad_samples: int = 0
    """Samples that cannot be read and were left out or replaced, as the dataset wants it, once for each epoch."""

    @property
    def waiting_share(self) -> float:
        """The part of a pass' time spent waiting for batches, 0 to 1."""
        return min(self.waited_s / self.passes_s, 1.0) if self.passes_s > 0 else 0.0

    def answered(self, *, ready: bool, waited_s: float, passed_s: float) -> "Statistics":
        """One more batch was given, `passed_s` after the one before it."""
        return replace(
            self,
            requests=self.requests + 1,
            ready=self.ready + ready,
            waited_s=self.waited_s + waited_s,
            passes_s=self.passes_s + passed_s,
        )

    def surprised(self) -> "Statistics":
        """One more pass went another way than it had announced."""
        return replace(self, surprises=self.surprises + 1)
