"""Which variables of the waker's environment an engine gets: what programs and GPUs need, and none of our secrets."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_*"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "CUBLAS_*", "CUDNN_*", "HIP_*", "HSA_*", "ROCM_*", "ROCR_*", "RCCL_*"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "NUMEXPR_*", "MALLOC_*"),
    *("VLLM_*", "TORCH*", "PYTORCH_*", "TRITON_*", "FLASHINFER_*", "SAFETENSORS_*", "TOKENIZERS_*", "TRANSFORMERS_*"),
    *("HF_*", "HUGGINGFACE_*", "HUGGING_FACE_*", "GGML_*", "LLAMA_*", "DO_NOT_TRACK"),
)
"""`HF_TOKEN` and `VLLM_API_KEY` belong to engines. A proxy's URL may hold a password, so it must be named."""


def engine_environment(ours: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """The part of our environment that an engine gets: `PASSED`, and what its machine's configuration names."""
    patterns = (*PASSED, *named)
    return {name: value for name, value in ours.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
