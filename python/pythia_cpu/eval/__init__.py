"""pythia-cpu as a model of EleutherAI's lm-evaluation-harness; needs the extra ``eval``.

To import this package registers the model "pythia-cpu" with the harness:

import lm_eval
import pythia_cpu.eval

arguments = "pretrained=EleutherAI/pythia-14m,revision=step3000,weights=q8"
lm_eval.simple_evaluate(model="pythia-cpu", model_args=arguments, tasks=["lambada_openai"])
"""

try:
    from pythia_cpu.eval._harness_model import HarnessModel
    from pythia_cpu.eval._result_cache import ResultCache
except ImportError as _error:
    from pythia_cpu._harness import missing_harness

    raise ImportError(f"pythia_cpu.eval {missing_harness(_error)}") from _error

__all__ = ["HarnessModel", "ResultCache"]
