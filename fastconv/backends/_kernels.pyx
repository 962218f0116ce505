# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=True
"""The bridge between Python and csrc, and the public functions' common case.

A call on four numbers takes 200 ns here and 5 us in :mod:`fastconv.functional`, nearly all of it checks and objects. So
the public functions are these ones: each carries out the common case (exact C-contiguous ndarrays of one dtype, ints or
tuples of ints, zero padding, the current backend) by itself, and hands everything else, every error included, to the
function of the same name in functional. Nothing is decided twice: what is not plainly right here is decided there.
"""

cimport cython
cimport numpy as cnp
from cpython.contextvars cimport PyContextVar_Get
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t

cnp.import_array()

cdef extern from "fastconv.h":
    ctypedef enum fc_operation:
        FC_FORWARD
        FC_BACKWARD_INPUT
        FC_BACKWARD_WEIGHT
    ctypedef enum fc_dtype:
        FC_FLOAT32
        FC_FLOAT64
    ctypedef struct fc_geometry:
        ptrdiff_t N, C, H, W, K, R, S, P, Q
        ptrdiff_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups
    ctypedef struct fc_call:
        fc_geometry geometry
        void *x
        void *w
        void *y
        const void *bias
        int bias_per_position
        int threads
        int keep_denormals
        void *workspace
    ctypedef struct fc_algorithm:
        const char *name
        fc_operation operation
        fc_dtype dtype
        int exact
        const char *(*unsupported)(const fc_geometry *) noexcept nogil
        const char *(*unwise)(const fc_geometry *, int) noexcept nogil
        size_t (*workspace)(const fc_geometry *, int) noexcept nogil
        void (*run)(const fc_call *) noexcept nogil
    ctypedef struct fc_kernels:
        const char *isa
        int vector_bytes
        const fc_algorithm *algorithms
        int count
    int fc_isa_count() nogil
    const char *fc_isa_name(int) nogil
    int fc_isa_usable(int) nogil
    const fc_kernels *fc_find(const char *) nogil
    size_t fc_level2_bytes() nogil
    ctypedef void (*fc_team)(void (*)(void *) noexcept nogil, void *, unsigned, unsigned) noexcept nogil
    ctypedef int (*fc_member)() noexcept nogil
    void fc_use_team(fc_team, fc_member) nogil

cdef extern from "machine_limits.h":
    ctypedef struct fc_limits:
        double (*multiply_add)(ptrdiff_t, float *) noexcept nogil
        float (*read)(const float *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*write)(float *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*copy)(float *, const float *, ptrdiff_t, ptrdiff_t) noexcept nogil
    const fc_limits *fc_find_limits(const char *) nogil

cdef extern from *:
    """
    #if defined(__clang__)
    #define FC_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FC_COMPILER "gcc " __VERSION__
    #else
    #define FC_COMPILER "unknown"
    #endif
    static inline int fc_small_int(PyObject *o, long least, ptrdiff_t *value)
    {
        int overflow;
        long v;
        if (!PyLong_CheckExact(o)) return 0;
        v = PyLong_AsLongAndOverflow(o, &overflow);
        *value = v;
        return !overflow && v >= least && v <= (1L << 20);
    }
    """
    const char *FC_COMPILER
    bint fc_small_int(PyObject *, long, ptrdiff_t *)

# Multiply-adds below which letting go of the GIL and taking it back costs more than another thread could gain.
cdef double GIL_MACS = 20000
# Results beyond this size get functional's check against the machine's memory first.
cdef double COMMON_BYTES = 1 << 28

cdef const fc_kernels *kernels = NULL   # of the ISA in use; NULL until arm() has chosen it
cdef bint ready = False                 # the three below are the process-wide settings
cdef bint active = False
cdef int default_threads = 1
cdef bint default_strict = False
cdef object override = None             # the context variable with a thread's own settings
cdef object arm = None                  # called when not ready
cdef object functional = None           # the module that handles what is not the common case


# ---- for fastconv.backends.cython

def stand_before(module, settings_override, arm_function):
    """Tell the functions below what to hand over to, where overrides live and how to learn the settings."""
    global functional, override, arm
    functional, override, arm = module, settings_override, arm_function
    for function in (conv1d, conv2d, conv1d_backward, conv2d_backward,
                     conv1d_input, conv2d_input, conv1d_weight, conv2d_weight):
        function.__doc__ = getattr(module, function.__name__).__doc__


def configure(bint is_active, int threads, bint strict):
    """The process-wide settings: whether this backend is the current one, threads, precision("strict")."""
    global ready, active, default_threads, default_strict
    ready, active, default_threads, default_strict = True, is_active, threads, strict


def forget():
    """The process-wide settings may have changed: ask for them at the next call."""
    global ready
    ready = False


def compiler():
    return FC_COMPILER.decode()


def use_team(size_t team, size_t member):
    """Run parallel calls on other threads than the pool's: by functions of type fc_team and fc_member, their addresses."""
    fc_use_team(<fc_team>team, <fc_member>member)


def level2_bytes():
    """What a core's level-2 cache holds, to which kernels cut their blocks."""
    return fc_level2_bytes()


def isas():
    """(name, usable here) of every ISA that this build holds, best first."""
    return [(fc_isa_name(i).decode(), bool(fc_isa_usable(i))) for i in range(fc_isa_count())]


def select_isa(name):
    """Use the kernels of ISA `name`, or of the best one for None. Returns its name, None where it can't be had."""
    global kernels
    cdef const fc_kernels *found
    if name is None:
        found = fc_find(NULL)
    else:
        encoded = name.encode()
        found = fc_find(encoded)
    if found == NULL:
        return None
    kernels = found
    return found.isa.decode()


def selected_isa():
    """The ISA in use, or None where none was selected yet."""
    return None if kernels == NULL else kernels.isa.decode()


def algorithm_names():
    """The algorithms of the ISA in use with (name, exact), in order of preference."""
    names = {}
    if kernels != NULL:
        for i in range(kernels.count):
            names.setdefault(kernels.algorithms[i].name.decode(), bool(kernels.algorithms[i].exact))
    return list(names.items())


cdef const fc_algorithm *find(name, int operation, int dtype):
    cdef int i
    if kernels != NULL:
        for i in range(kernels.count):
            if (kernels.algorithms[i].operation == operation and kernels.algorithms[i].dtype == dtype
                    and kernels.algorithms[i].name.decode() == name):
                return &kernels.algorithms[i]
    return NULL


cdef fc_geometry convert(geometry) except *:
    cdef fc_geometry g
    g.N, g.C, g.H, g.W, g.K, g.R, g.S, g.P, g.Q = geometry[:9]
    g.stride_h, g.stride_w = geometry.stride
    g.pad_h, g.pad_w = geometry.pad
    g.dilation_h, g.dilation_w = geometry.dilation
    g.groups = geometry.groups
    return g


def unsupported(name, int operation, geometry, int dtype):
    cdef const fc_algorithm *a = find(name, operation, dtype)
    if a == NULL:
        return "not written for this operation and dtype"
    cdef fc_geometry g = convert(geometry)
    cdef const char *reason = a.unsupported(&g)
    return None if reason == NULL else reason.decode()


def unwise(name, int operation, geometry, int dtype, int threads):
    cdef const fc_algorithm *a = find(name, operation, dtype)
    cdef fc_geometry g = convert(geometry)
    cdef const char *reason = a.unwise(&g, threads)
    return None if reason == NULL else reason.decode()


def workspace(name, int operation, geometry, int dtype, int threads):
    cdef const fc_algorithm *a = find(name, operation, dtype)
    cdef fc_geometry g = convert(geometry)
    return a.workspace(&g, threads)


def run(name, int operation, geometry, cnp.ndarray x, cnp.ndarray w, cnp.ndarray y, bias, int threads, bint strict):
    """The named algorithm on batched 4-D arrays that functional has checked."""
    cdef int dtype = FC_FLOAT64 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64 else FC_FLOAT32
    cdef const fc_algorithm *a = find(name, operation, dtype)
    cdef fc_call call
    call.geometry = convert(geometry)
    call.x = cnp.PyArray_DATA(x)
    call.w = cnp.PyArray_DATA(w)
    call.y = cnp.PyArray_DATA(y)
    call.bias = NULL
    call.bias_per_position = 0
    if bias is not None:
        call.bias = cnp.PyArray_DATA(<cnp.ndarray>bias)
        call.bias_per_position = cnp.PyArray_NDIM(<cnp.ndarray>bias) == 3
    call.threads = threads
    call.keep_denormals = strict
    execute(a, &call, a.workspace(&call.geometry, threads))


# ---- for fastconv.bench.limits

cdef const fc_limits *limits(isa) except NULL:
    cdef const fc_limits *found
    encoded = isa.encode()
    found = fc_find_limits(encoded)
    if found == NULL:
        raise RuntimeError(f"ISA {isa!r} is not to be had here")
    return found


def limit_multiply_add(isa, ptrdiff_t rounds):
    """Multiplies and adds in registers, `rounds` times over, without the GIL. Returns the FLOPs done."""
    cdef const fc_limits *table = limits(isa)
    cdef float sink
    cdef double flops
    with nogil:
        flops = table.multiply_add(rounds, &sink)
    return flops


def limit_memory(isa, kind, cnp.ndarray to, cnp.ndarray source, ptrdiff_t passes):
    """Goes over float32 arrays, a multiple of 128 long and aligned to 64 bytes, `passes` times, without the GIL.

    kind: "read" (of `source`), "write" (to `to`) or "copy".
    """
    cdef const fc_limits *table = limits(isa)
    cdef float *target = <float *>cnp.PyArray_DATA(to)
    cdef const float *origin = <const float *>cnp.PyArray_DATA(source)
    cdef ptrdiff_t n = min(to.size, source.size)
    if n % 128 or <uintptr_t>target % 64 or <uintptr_t>origin % 64:
        raise ValueError("arrays must be aligned to 64 bytes and a multiple of 128 elements long")
    cdef int what = ("read", "write", "copy").index(kind)
    with nogil:
        if what == 0:
            table.read(origin, n, passes)
        elif what == 1:
            table.write(target, n, passes)
        else:
            table.copy(target, origin, n, passes)


# ---- the common case

cdef inline double macs(const fc_geometry *g) noexcept nogil:
    return <double>g.N * g.K * g.P * g.Q * (g.C // g.groups) * g.R * g.S


cdef int execute(const fc_algorithm *a, fc_call *call, size_t size) except -1:
    """Runs `a` with its `size` bytes of workspace."""
    cdef void *block = NULL
    call.workspace = NULL
    if size:
        block = PyMem_RawMalloc(size + 63)
        if block == NULL:
            raise MemoryError(f"{a.name.decode()} needs {size:,} bytes of workspace")
        call.workspace = <void *>((<uintptr_t>block + 63) & ~<uintptr_t>63)
    if macs(&call.geometry) > GIL_MACS:
        with nogil:
            a.run(call)
    else:
        a.run(call)
    if block != NULL:
        PyMem_RawFree(block)
    return 0


cdef const fc_algorithm *choose(int operation, int dtype, const fc_geometry *g, int threads, bint strict) noexcept:
    """The planner's rule on this backend's table: the first row that does not refuse."""
    cdef const fc_algorithm *a = kernels.algorithms
    cdef int i
    for i in range(kernels.count):
        if (a[i].operation == operation and a[i].dtype == dtype and (a[i].exact or not strict)
                and a[i].unsupported(g) == NULL and a[i].unwise(g, threads) == NULL):
            return &a[i]
    return NULL


cdef bint settings(int *threads, int *strict) except -1:
    """The settings of this call; False where another backend is the current one."""
    cdef PyObject *value = NULL
    cdef bint here
    if not ready:
        arm()
    threads[0], strict[0], here = default_threads, default_strict, active
    PyContextVar_Get(override, NULL, &value)
    if value != NULL:
        own = <object>value
        Py_DECREF(own)
        if own is not None:
            if (<tuple>own)[0] is not None:
                here = (<tuple>own)[0] == "cython"
            if (<tuple>own)[1] is not None:
                threads[0] = (<tuple>own)[1]
            if (<tuple>own)[2] is not None:
                strict[0] = (<tuple>own)[2] == "strict"
    return here and kernels != NULL


cdef inline bint plain(object array, int dtype) noexcept:
    """Whether it is exactly an ndarray of NumPy type `dtype`, C-contiguous, aligned and native."""
    if not cnp.PyArray_CheckExact(array):
        return False
    return cnp.PyArray_TYPE(<cnp.ndarray>array) == dtype and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array)


cdef inline bint pair(object value, int axes, long least, ptrdiff_t *h, ptrdiff_t *w) noexcept:
    """Reads an int, or a tuple of `axes` ints; h is left alone in 1-D."""
    if fc_small_int(<PyObject *>value, least, w):
        if axes == 2:
            h[0] = w[0]
        return True
    if not PyTuple_CheckExact(value) or PyTuple_GET_SIZE(value) != axes:
        return False
    if axes == 2 and not fc_small_int(<PyObject *>PyTuple_GET_ITEM(value, 0), least, h):
        return False
    return fc_small_int(<PyObject *>PyTuple_GET_ITEM(value, axes - 1), least, w)


cdef bint read_geometry(int axes, const cnp.npy_intp *x, const cnp.npy_intp *w, object stride, object padding,
                        object dilation, object groups, fc_geometry *g) noexcept:
    """Fills g from the shapes of a batched input and a weight; False where anything is unusual or wrong."""
    cdef ptrdiff_t reach_h, reach_w, rows, columns
    g.stride_h = g.dilation_h = 1
    g.pad_h = 0
    if not (pair(stride, axes, 1, &g.stride_h, &g.stride_w) and pair(padding, axes, 0, &g.pad_h, &g.pad_w)
            and pair(dilation, axes, 1, &g.dilation_h, &g.dilation_w)
            and fc_small_int(<PyObject *>groups, 1, &g.groups)):
        return False
    g.N, g.C, g.H, g.W = x[0], x[1], x[2] if axes == 2 else 1, x[axes + 1]
    g.K, g.R, g.S = w[0], w[2] if axes == 2 else 1, w[axes + 1]
    if min(g.N, g.C, g.H, g.W) < 1 or min(g.K, g.R, g.S) < 1:
        return False
    if g.groups != 1 and (g.C % g.groups or g.K % g.groups):
        return False
    if w[1] * g.groups != g.C:
        return False
    reach_h, reach_w = g.dilation_h * (g.R - 1) + 1, g.dilation_w * (g.S - 1) + 1
    rows, columns = g.H + 2 * g.pad_h, g.W + 2 * g.pad_w
    if reach_h > rows or reach_w > columns:
        return False
    g.P = (rows - reach_h) // g.stride_h + 1 if g.stride_h > 1 else rows - reach_h + 1
    g.Q = (columns - reach_w) // g.stride_w + 1 if g.stride_w > 1 else columns - reach_w + 1
    return True


cdef inline cnp.ndarray empty(int axes, bint batched, int dtype, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w):
    cdef cnp.npy_intp shape[4]
    cdef int rank = 0
    if batched:
        shape[rank] = n
        rank += 1
    shape[rank] = c
    rank += 1
    if axes == 2:
        shape[rank] = h
        rank += 1
    shape[rank] = w
    return cnp.PyArray_EMPTY(rank + 1, shape, dtype, 0)


cdef inline bint has_shape(cnp.ndarray a, int axes, bint batched, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h,
                           ptrdiff_t w) noexcept:
    cdef const cnp.npy_intp *shape = cnp.PyArray_DIMS(a)
    if cnp.PyArray_NDIM(a) != axes + 1 + batched or (batched and shape[0] != n):
        return False
    shape += batched
    return shape[0] == c and (axes == 1 or shape[1] == h) and shape[axes] == w


cdef inline const cnp.npy_intp *batched_shape(cnp.ndarray a, int axes, bint *batched, cnp.npy_intp *space) noexcept:
    """a's shape with a batch axis (in `space` where it has none); NULL for any other rank."""
    cdef int rank = cnp.PyArray_NDIM(a), i
    batched[0] = rank == axes + 2
    if batched[0]:
        return cnp.PyArray_DIMS(a)
    if rank != axes + 1:
        return NULL
    space[0] = 1
    for i in range(rank):
        space[i + 1] = cnp.PyArray_DIMS(a)[i]
    return space


cdef inline int sizes(object value, cnp.npy_intp *space) noexcept:
    """The length of a tuple of 2 to 4 ordinary ints, which are put into `space`; 0 for anything else."""
    cdef Py_ssize_t n, i
    if not PyTuple_CheckExact(value):
        return 0
    n = PyTuple_GET_SIZE(value)
    if n < 2 or n > 4:
        return 0
    for i in range(n):
        if not fc_small_int(<PyObject *>PyTuple_GET_ITEM(value, i), 1, <ptrdiff_t *>&space[i]):
            return 0
    return <int>n


cdef inline bint covered(ptrdiff_t outputs, ptrdiff_t taps, ptrdiff_t size, ptrdiff_t pad, ptrdiff_t dilation) noexcept:
    return outputs == 1 and taps == size and pad == 0 and (dilation == 1 or taps == 1)


cdef inline void fold(fc_geometry *g) noexcept:
    """As :func:`fastconv.geometry.folded`."""
    if (g.C == g.groups and g.groups > 1) or not covered(g.P, g.R, g.H, g.pad_h, g.dilation_h):
        return
    g.C, g.H, g.R, g.stride_h = g.C * g.H, 1, 1, 1
    if covered(g.Q, g.S, g.W, g.pad_w, g.dilation_w):
        g.C, g.W, g.S, g.stride_w = g.C * g.W, 1, 1, 1


cdef bint one(int operation, fc_call *call, int dtype) except -1:
    """Carries out one operation; False where no row of the table takes it."""
    fold(&call.geometry)
    cdef const fc_algorithm *a = choose(operation, FC_FLOAT32 if dtype == cnp.NPY_FLOAT32 else FC_FLOAT64,
                                        &call.geometry, call.threads, call.keep_denormals)
    if a == NULL:
        return False
    cdef size_t size = a.workspace(&call.geometry, call.threads)
    if size > COMMON_BYTES:
        return False
    execute(a, call, size)
    return True


cdef inline bint small_enough(const fc_geometry *g) noexcept:
    """Whether results, and the padded planes that a kernel may hold, stay where no size can overflow."""
    cdef double padded = <double>(g.H + 2 * g.pad_h) * (g.W + 2 * g.pad_w)
    return (<double>g.N * g.K * g.P * g.Q * 8 <= COMMON_BYTES and <double>g.N * g.C * g.H * g.W * 8 <= COMMON_BYTES
            and padded * max(g.C, g.K) * 8 <= COMMON_BYTES)


cdef inline bint apart(cnp.ndarray a, object other) noexcept:
    """Whether `other`, contiguous or None, shares no byte with a."""
    if other is None:
        return True
    cdef const char *first = <const char *>cnp.PyArray_DATA(a)
    cdef const char *second = <const char *>cnp.PyArray_DATA(<cnp.ndarray>other)
    return first + cnp.PyArray_NBYTES(a) <= second or second + cnp.PyArray_NBYTES(<cnp.ndarray>other) <= first


cdef object forward(int axes, object input, object weight, object bias, object stride, object padding, object dilation,
                    object groups, object out):
    cdef fc_call call
    cdef cnp.npy_intp space[4]
    cdef const cnp.npy_intp *x
    cdef bint batched
    cdef int dtype
    cdef fc_geometry *g = &call.geometry
    if not settings(&call.threads, &call.keep_denormals):
        return None
    if not cnp.PyArray_CheckExact(input) or not cnp.PyArray_CheckExact(weight):
        return None
    dtype = cnp.PyArray_TYPE(<cnp.ndarray>input)
    if (dtype != cnp.NPY_FLOAT32 and dtype != cnp.NPY_FLOAT64) or not plain(input, dtype) or not plain(weight, dtype):
        return None
    x = batched_shape(<cnp.ndarray>input, axes, &batched, space)
    if x == NULL or cnp.PyArray_NDIM(<cnp.ndarray>weight) != axes + 2:
        return None
    if not read_geometry(axes, x, cnp.PyArray_DIMS(<cnp.ndarray>weight), stride, padding, dilation, groups, g):
        return None
    if not small_enough(g):
        return None
    call.bias = NULL
    call.bias_per_position = 0
    if bias is not None:
        if not plain(bias, dtype):
            return None
        if cnp.PyArray_NDIM(<cnp.ndarray>bias) == 1:
            if cnp.PyArray_DIMS(<cnp.ndarray>bias)[0] != g.K:
                return None
        elif has_shape(<cnp.ndarray>bias, axes, False, 1, g.K, g.P, g.Q):
            call.bias_per_position = 1
        else:
            return None
        call.bias = cnp.PyArray_DATA(<cnp.ndarray>bias)
    if out is None:
        y = empty(axes, batched, dtype, g.N, g.K, g.P, g.Q)
    elif (plain(out, dtype) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
            and has_shape(<cnp.ndarray>out, axes, batched, g.N, g.K, g.P, g.Q)
            and apart(<cnp.ndarray>out, input) and apart(<cnp.ndarray>out, weight) and apart(<cnp.ndarray>out, bias)):
        y = out
    else:
        return None
    call.x = cnp.PyArray_DATA(<cnp.ndarray>input)
    call.w = cnp.PyArray_DATA(<cnp.ndarray>weight)
    call.y = cnp.PyArray_DATA(<cnp.ndarray>y)
    return y if one(FC_FORWARD, &call, dtype) else None


cdef object backward_input(int axes, object input_size, object weight, object grad_output, object stride,
                           object padding, object dilation, object groups):
    cdef fc_call call
    cdef cnp.npy_intp space[5]
    cdef int dtype, rank
    cdef bint batched
    cdef fc_geometry *g = &call.geometry
    if not settings(&call.threads, &call.keep_denormals):
        return None
    if not cnp.PyArray_CheckExact(grad_output) or not cnp.PyArray_CheckExact(weight):
        return None
    dtype = cnp.PyArray_TYPE(<cnp.ndarray>weight)
    if (dtype != cnp.NPY_FLOAT32 and dtype != cnp.NPY_FLOAT64) or not plain(grad_output, dtype) or not plain(weight, dtype):
        return None
    space[0] = 1
    rank = sizes(input_size, space + 1)
    batched = rank == axes + 2
    if cnp.PyArray_NDIM(<cnp.ndarray>weight) != axes + 2 or not (batched or rank == axes + 1):
        return None
    if not read_geometry(axes, space + batched, cnp.PyArray_DIMS(<cnp.ndarray>weight), stride, padding, dilation, groups, g):
        return None
    if not small_enough(g) or not has_shape(<cnp.ndarray>grad_output, axes, batched, g.N, g.K, g.P, g.Q):
        return None
    x = empty(axes, batched, dtype, g.N, g.C, g.H, g.W)
    call.bias = NULL
    call.bias_per_position = 0
    call.x = cnp.PyArray_DATA(x)
    call.w = cnp.PyArray_DATA(<cnp.ndarray>weight)
    call.y = cnp.PyArray_DATA(<cnp.ndarray>grad_output)
    return x if one(FC_BACKWARD_INPUT, &call, dtype) else None


cdef object backward_weight(int axes, object input, object weight_size, object grad_output, object stride,
                            object padding, object dilation, object groups):
    cdef fc_call call
    cdef cnp.npy_intp space[4]
    cdef cnp.npy_intp kernel[4]
    cdef const cnp.npy_intp *x
    cdef int dtype
    cdef bint batched
    cdef fc_geometry *g = &call.geometry
    if not settings(&call.threads, &call.keep_denormals):
        return None
    if not cnp.PyArray_CheckExact(input) or not cnp.PyArray_CheckExact(grad_output):
        return None
    dtype = cnp.PyArray_TYPE(<cnp.ndarray>input)
    if (dtype != cnp.NPY_FLOAT32 and dtype != cnp.NPY_FLOAT64) or not plain(input, dtype) or not plain(grad_output, dtype):
        return None
    x = batched_shape(<cnp.ndarray>input, axes, &batched, space)
    if x == NULL or sizes(weight_size, kernel) != axes + 2:
        return None
    if not read_geometry(axes, x, kernel, stride, padding, dilation, groups, g):
        return None
    if not small_enough(g) or not has_shape(<cnp.ndarray>grad_output, axes, batched, g.N, g.K, g.P, g.Q):
        return None
    w = cnp.PyArray_EMPTY(axes + 2, kernel, dtype, 0)
    call.bias = NULL
    call.bias_per_position = 0
    call.x = cnp.PyArray_DATA(<cnp.ndarray>input)
    call.w = cnp.PyArray_DATA(w)
    call.y = cnp.PyArray_DATA(<cnp.ndarray>grad_output)
    return w if one(FC_BACKWARD_WEIGHT, &call, dtype) else None


cdef inline bint mask(object value, bint *wanted) noexcept:
    """Reads a tuple of exactly three bools."""
    cdef Py_ssize_t i
    if not PyTuple_CheckExact(value) or PyTuple_GET_SIZE(value) != 3:
        return False
    for i in range(3):
        item = <object>PyTuple_GET_ITEM(value, i)
        if item is not True and item is not False:
            return False
        wanted[i] = item is True
    return True


cdef object backward(int axes, object grad_output, object input, object weight, object stride, object padding,
                     object dilation, object groups, object output_mask):
    """All the gradients wanted, with a tied bias: one geometry and one set of checks for them all."""
    cdef fc_call call
    cdef cnp.npy_intp space[4]
    cdef const cnp.npy_intp *x
    cdef int dtype
    cdef bint batched
    cdef bint wanted[3]
    cdef fc_geometry *g = &call.geometry
    if not settings(&call.threads, &call.keep_denormals):
        return None
    if not cnp.PyArray_CheckExact(input) or not mask(output_mask, wanted):
        return None
    dtype = cnp.PyArray_TYPE(<cnp.ndarray>input)
    if ((dtype != cnp.NPY_FLOAT32 and dtype != cnp.NPY_FLOAT64) or not plain(input, dtype) or not plain(weight, dtype)
            or not plain(grad_output, dtype)):
        return None
    x = batched_shape(<cnp.ndarray>input, axes, &batched, space)
    if x == NULL or cnp.PyArray_NDIM(<cnp.ndarray>weight) != axes + 2:
        return None
    if not read_geometry(axes, x, cnp.PyArray_DIMS(<cnp.ndarray>weight), stride, padding, dilation, groups, g):
        return None
    if not small_enough(g) or not has_shape(<cnp.ndarray>grad_output, axes, batched, g.N, g.K, g.P, g.Q):
        return None
    call.bias = NULL
    call.bias_per_position = 0
    call.y = cnp.PyArray_DATA(<cnp.ndarray>grad_output)
    grad_input = grad_weight = grad_bias = None
    if wanted[0]:
        grad_input = empty(axes, batched, dtype, g.N, g.C, g.H, g.W)
        call.x = cnp.PyArray_DATA(<cnp.ndarray>grad_input)
        call.w = cnp.PyArray_DATA(<cnp.ndarray>weight)
        if not one(FC_BACKWARD_INPUT, &call, dtype):
            return None
    if wanted[1]:
        grad_weight = cnp.PyArray_EMPTY(axes + 2, cnp.PyArray_DIMS(<cnp.ndarray>weight), dtype, 0)
        call.x = cnp.PyArray_DATA(<cnp.ndarray>input)
        call.w = cnp.PyArray_DATA(<cnp.ndarray>grad_weight)
        if not one(FC_BACKWARD_WEIGHT, &call, dtype):
            return None
    if wanted[2]:
        grad_bias = functional._bias_gradient(grad_output if batched else grad_output[None], False)
    return grad_input, grad_weight, grad_bias


# ---- public: their docstrings are those of functional

def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode="zeros", out=None,
           backend=None, algorithm=None):
    if backend is None and algorithm is None and padding_mode == "zeros":
        y = forward(1, input, weight, bias, stride, padding, dilation, groups, out)
        if y is not None:
            return y
    return functional._conv(1, input, weight, bias, stride, padding, dilation, groups, padding_mode, out, backend,
                            algorithm)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, padding_mode="zeros", out=None,
           backend=None, algorithm=None):
    if backend is None and algorithm is None and padding_mode == "zeros":
        y = forward(2, input, weight, bias, stride, padding, dilation, groups, out)
        if y is not None:
            return y
    return functional._conv(2, input, weight, bias, stride, padding, dilation, groups, padding_mode, out, backend,
                            algorithm)


def conv1d_backward(grad_output, input, weight, *, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros",
                    bias_shape=None, output_mask=(True, True, True), backend=None, algorithm=None):
    if bias_shape is None and backend is None and algorithm is None and padding_mode == "zeros":
        gradients = backward(1, grad_output, input, weight, stride, padding, dilation, groups, output_mask)
        if gradients is not None:
            return gradients
    return functional._conv_backward(1, grad_output, input, weight, stride, padding, dilation, groups, padding_mode,
                                     bias_shape, output_mask, backend, algorithm)


def conv2d_backward(grad_output, input, weight, *, stride=1, padding=0, dilation=1, groups=1, padding_mode="zeros",
                    bias_shape=None, output_mask=(True, True, True), backend=None, algorithm=None):
    if bias_shape is None and backend is None and algorithm is None and padding_mode == "zeros":
        gradients = backward(2, grad_output, input, weight, stride, padding, dilation, groups, output_mask)
        if gradients is not None:
            return gradients
    return functional._conv_backward(2, grad_output, input, weight, stride, padding, dilation, groups, padding_mode,
                                     bias_shape, output_mask, backend, algorithm)


def conv1d_input(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1, *, backend=None,
                 algorithm=None):
    if backend is None and algorithm is None:
        x = backward_input(1, input_size, weight, grad_output, stride, padding, dilation, groups)
        if x is not None:
            return x
    return functional._conv_input(1, input_size, weight, grad_output, stride, padding, dilation, groups, backend,
                                  algorithm)


def conv2d_input(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1, *, backend=None,
                 algorithm=None):
    if backend is None and algorithm is None:
        x = backward_input(2, input_size, weight, grad_output, stride, padding, dilation, groups)
        if x is not None:
            return x
    return functional._conv_input(2, input_size, weight, grad_output, stride, padding, dilation, groups, backend,
                                  algorithm)


def conv1d_weight(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1, *, backend=None,
                  algorithm=None):
    if backend is None and algorithm is None:
        w = backward_weight(1, input, weight_size, grad_output, stride, padding, dilation, groups)
        if w is not None:
            return w
    return functional._conv_weight(1, input, weight_size, grad_output, stride, padding, dilation, groups, backend,
                                   algorithm)


def conv2d_weight(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1, *, backend=None,
                  algorithm=None):
    if backend is None and algorithm is None:
        w = backward_weight(2, input, weight_size, grad_output, stride, padding, dilation, groups)
        if w is not None:
            return w
    return functional._conv_weight(2, input, weight_size, grad_output, stride, padding, dilation, groups, backend,
                                   algorithm)
