"""The error tree: every error a user can mend is one line and carries the exit code of the design.

MedsslError                 2   one line: what, which value, what would be right
├── StudyError              2   a study file, an override, a plugin name
├── PoolError               2   not a pool, another key, another format version
│   └── CorruptShard        2   stored bytes differ from their checksum
├── LabelError              2   labels with unknown, duplicate or conflicting ids
├── EncoderError            2   no such encoder, or it lacks what a method needs
├── SelectionError          2   a budget or a round that cannot be served
├── EvaluationError         2   figures that cannot be computed, a patient on two sides
├── RunError                2   a run folder without a readable journal
├── TrainingError           2   a checkpoint of another study, or one that cannot be written
│   └── Diverged            2   a loss that stays non-finite
├── GateRefused             4   the gate said no_go
└── Preempted              75   stopped by a signal after saving; resume
"""

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits: a scheduler may start the same command again


class MedsslError(Exception):
    """An error that the user can mend; its message is one line without any patient identifier."""

    exit_code = 2


class StudyError(MedsslError):
    """A study file, an override or a plugin name is wrong."""


class PoolError(MedsslError):
    """A folder is not a pool, or a pool of another key or format version."""


class CorruptShard(PoolError):
    """Stored bytes differ from their checksum."""


class LabelError(MedsslError):
    """Labels with unknown, duplicate or conflicting ids; nothing was imported."""


class EncoderError(MedsslError):
    """No such encoder, or it lacks what a method needs."""


class SelectionError(MedsslError):
    """A budget or a round that cannot be served."""


class EvaluationError(MedsslError):
    """Figures cannot be computed from these examples: sizes, values or roles are wrong."""


class RunError(MedsslError):
    """A run folder without a readable journal, or an artifact that is not there."""


class TrainingError(MedsslError):
    """Training cannot go on: it diverged, or a checkpoint is of another study or cannot be written."""


class Diverged(TrainingError):
    """The loss, or its gradient, stays non-finite: mostly because the learning rate is too high."""


class GateRefused(MedsslError):
    """The gate said no_go."""

    exit_code = 4


class Preempted(MedsslError):
    """Training was stopped by a signal after saving a checkpoint."""

    exit_code = EXIT_PREEMPTED
