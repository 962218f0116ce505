"""Builds the C kernels, once for each instruction set, and the Cython extension over them. All else: pyproject.toml.

Without a working C compiler the package is installed all the same, without the extension: the numba and reference
backends remain, and ``fastconv.show_config()`` gives the reason that is written down here.
"""

import os
import platform
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

X86 = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
}
ARM = {"neon": []}  # part of every 64-bit ARM
ISAS = {
    **{"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}.get(platform.machine().lower(), {}),
    "baseline": [],
}
MACROS = [(f"FC_HAVE_{isa.upper()}", "1") for isa in ISAS]
if os.environ.get("FASTCONV_EMULATE_AVX512"):  # for tests on x86 CPUs without it: the same source and tiles, but slow
    ISAS["avx512"] = ISAS["avx2"]
    MACROS.append(("FC_EMULATED_AVX512", "1"))
FLAGS = [
    "-std=gnu11", "-O3", "-g0", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast"
]  # fmt: skip
STRIP = ["-Wl,-x"] if sys.platform == "darwin" else ["-Wl,-s"]
HEADERS = sorted(map(str, [*Path("csrc").glob("*.h"), *Path("csrc").glob("*.inc"), *Path("csrc").glob("*.def")]))
REASON = "not_built.txt"


def library(name, sources, flags=()):
    return name, {
        "sources": [f"csrc/{source}" for source in sources],
        "include_dirs": ["csrc"],
        "macros": MACROS,
        "cflags": [*FLAGS, *flags],
    }


LIBRARIES = [
    *(library(f"fastconv_{isa}", [f"isa_{isa}.c"], flags) for isa, flags in ISAS.items()),
    library("fastconv_common", ["cache.c", "dispatch.c", "machine_limits.c", "pool.c"]),
]
EXTENSION = Extension(
    "fastconv.backends._kernels",
    ["fastconv/backends/_kernels.pyx"],
    include_dirs=["csrc", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")],
    # dispatch.c names the tables of the other libraries, so it comes before them on the linker's line.
    libraries=["fastconv_common", *(f"fastconv_{isa}" for isa in ISAS)],
    extra_compile_args=["-O3", "-g0", "-pthread", "-fvisibility=hidden"],
    extra_link_args=["-pthread", *STRIP],
    depends=HEADERS,
)

failure = None


class BuildKernels(build_clib):
    def build_libraries(self, libraries):
        """One ISA's object takes half a minute of compiling: side by side, as far as there are CPUs."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda library: super(BuildKernels, self).build_libraries([library]), libraries))

    def run(self):
        global failure
        try:
            super().run()
        except Exception as error:  # whatever a broken or missing compiler raises: the package must still install
            failure = f"{type(error).__name__}: {error}"


class BuildExtension(build_ext):
    def run(self):
        global failure
        if failure is None:
            try:
                super().run()
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
        folders = [Path(self.build_lib, "fastconv/backends")]
        if self.inplace or getattr(self, "editable_mode", False):
            folders.append(Path("fastconv/backends"))
        for folder in folders:
            if failure is None:
                folder.joinpath(REASON).unlink(missing_ok=True)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            reason = f"the C extension was not built: no working C compiler when fastconv was installed ({failure})"
            folder.joinpath(REASON).write_text(reason + "\n", encoding="utf-8")
        if failure is not None:
            self.extensions = []
            warnings.warn(f"fastconv is installed without its C extension: {failure}", stacklevel=1)

    def get_outputs(self):
        return [] if failure is not None else super().get_outputs()

    def get_output_mapping(self):
        return {} if failure is not None else super().get_output_mapping()


setup(
    libraries=LIBRARIES,
    ext_modules=cythonize([EXTENSION], build_dir="build/cython", language_level=3),
    cmdclass={"build_clib": BuildKernels, "build_ext": BuildExtension},
)
