"""The public names: the verbs of the command line as functions; each returns a `Result`.

Example:
    >>> from medssl import api
    >>> study = api.load_study(Path("configs/chest_xray.yaml"), ["loop.epochs=5"])
    >>> api.pretrain(study).data["encoder"]
    'workspace/chest_xray/runs/pretrain-…'
"""

from medssl.core.errors import MedsslError
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.verbs.evaluate import evaluate
from medssl.verbs.finetune import finetune
from medssl.verbs.import_labels import import_labels
from medssl.verbs.ingest import ingest
from medssl.verbs.predict import predict
from medssl.verbs.pretrain import pretrain
from medssl.verbs.result import Result
from medssl.verbs.review import review
from medssl.verbs.select import select

__all__ = [
    "MedsslError",
    "Pool",
    "Result",
    "Study",
    "evaluate",
    "finetune",
    "import_labels",
    "ingest",
    "load_study",
    "predict",
    "pretrain",
    "review",
    "select",
]
