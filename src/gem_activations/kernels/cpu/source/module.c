/* The library as a Python module too, on the stable ABI: `compute` takes tensors, which ctypes cannot look into.
 *
 * A call on a small tensor costs more than its arithmetic. Here the framework's own C interface (DLPack 1.3, "exchange
 * API") tells dtype, shape and address of a tensor in one call. What is not contiguous, or otherwise out of the
 * ordinary, is declined: the caller then takes the long way, gem_run on addresses. So does a library that was
 * built without Python's headers, or for a Python without the stable ABI: it lacks this file.
 */
#if defined(__has_include)
#if __has_include(<Python.h>)
#include <pyconfig.h>
#if !defined(Py_GIL_DISABLED)

#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "gem.h"

/* What is used of dlpack.h, version 1.3: the start of its structures. */
typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;

typedef struct {
    uint32_t major, minor;
    void *older;
    void *allocate, *from_object, *to_object;
    int (*describe)(void *object, dl_tensor *out);
} dl_exchange;

enum { DL_CPU = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_MAJOR = 1 };

/* Below this many elements other Python threads wait for the kernel. */
enum { RELEASE = 4096 };

/* How a call is to be taken: as it is; into the storage of the input; declined if something has to see what is done, be
 * it autograd or an override, a transform or a tracer; or with autograd told by the caller, if the result is a tuple. */
enum { PLAINLY, IN_PLACE, UNSEEN, ATTACHED };

/* Of the framework, for the whole process: `bind` and `bind_nodes` set them. */
static const dl_exchange *exchange;
static PyTypeObject *tensor_type, *parameter_type;
static PyObject *empty_like, *thread_count, *grad_mode, *is_negated, *is_copy_on_write, *is_overridden, *recorders;
static PyObject *forward_ad, *apply_gradient;
static PyObject *requires_grad, *current_level, *settings_name, *saved_tensors, *to_save, *dirty_tensors;

static PyObject *bind(PyObject *module, PyObject *arguments)
{
    PyObject *capsule;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOOOOOOO!", &tensor_type, &parameter_type, &capsule, &empty_like,
                          &thread_count, &grad_mode, &is_negated, &is_copy_on_write, &is_overridden, &forward_ad,
                          &PyTuple_Type, &recorders))
        return NULL;
    Py_INCREF(arguments); /* for ever, and with it all that was given */
    requires_grad = PyUnicode_InternFromString("requires_grad");
    current_level = PyUnicode_InternFromString("_current_level");
    settings_name = PyUnicode_InternFromString("settings");
    saved_tensors = PyUnicode_InternFromString("saved_tensors");
    to_save = PyUnicode_InternFromString("to_save");
    dirty_tensors = PyUnicode_InternFromString("dirty_tensors");
    exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (exchange == NULL || PyErr_Occurred()) return NULL;
    if (exchange->major != DL_MAJOR || exchange->describe == NULL) {
        exchange = NULL;
        PyErr_SetString(PyExc_ImportError, "the exchange API of DLPack has another version");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Return whether an answer is there and says no; its reference is taken. */
static int says_no(PyObject *answer)
{
    const int truth = answer == Py_False ? 0 : answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return truth == 0;
}

static int asked(PyObject *question, PyObject *tensor)
{
    return !says_no(PyObject_CallFunctionObjArgs(question, tensor, NULL));
}

static int is_recorded(void)
{
    PyObject *level = PyObject_GetAttr(forward_ad, current_level); /* of tensors with tangents */
    const int has_tangents = level == NULL || PyLong_AsLong(level) >= 0;
    Py_XDECREF(level);
    if (has_tangents) return 1;
    for (Py_ssize_t k = 0; k < PyTuple_Size(recorders); k++)
        if (!says_no(PyObject_CallNoArgs(PyTuple_GetItem(recorders, k)))) return 1;
    return 0;
}

/* Describe a contiguous CPU tensor, and return its number of elements; else -1, perhaps with an exception. */
static int64_t describe(PyObject *object, dl_tensor *tensor)
{
    if (exchange->describe(object, tensor) != 0) return -1;
    if (tensor->device.type != DL_CPU) return -1;
    int64_t count = 1;
    for (int k = 0; k < tensor->ndim; k++) count *= tensor->shape[k];
    int64_t width = 1;
    for (int k = tensor->ndim - 1; k >= 0 && count != 0; k--) {
        if (tensor->shape[k] != 1 && tensor->strides[k] != width) return -1;
        width *= tensor->shape[k];
    }
    /* Zeros that are not stored have no address. */
    return tensor->data == NULL && count != 0 ? -1 : count;
}

static int64_t dtype_of(const dl_tensor *tensor)
{
    if (tensor->dtype.lanes != 1) return -1;
    if (tensor->dtype.code == DL_BFLOAT) return GEM_BFLOAT16;
    if (tensor->dtype.code != DL_FLOAT) return -1;
    return tensor->dtype.bits == 32 ? GEM_FLOAT32 : tensor->dtype.bits == 64 ? GEM_FLOAT64
           : tensor->dtype.bits == 16 ? GEM_FLOAT16 : -1;
}

static int alike(const dl_tensor *a, const dl_tensor *b)
{
    int same = a->ndim == b->ndim && a->dtype.code == b->dtype.code && a->dtype.bits == b->dtype.bits;
    for (int k = 0; same && k < a->ndim; k++) same = a->shape[k] == b->shape[k];
    return same;
}

/* Describe the scales of x, of shape (channels,) along its second dimension; 0 if they are out of the ordinary. */
static int describe_scales(PyObject *object, const dl_tensor *x, gem_scales *scales)
{
    dl_tensor tensor;
    if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) return 0;
    if (asked(is_negated, object)) return 0;
    scales->channels = describe(object, &tensor); /* If it was to be copied on writing it is copied now, as it is small. */
    if (scales->channels < 1) return 0;
    if (scales->channels > 1 && (x->ndim < 2 || x->shape[1] != scales->channels)) return 0;
    scales->log_scale = tensor.data;
    scales->dtype = dtype_of(&tensor);
    scales->inner = 1;
    for (int k = 2; k < x->ndim; k++) scales->inner *= x->shape[k];
    if (scales->inner < 1) scales->inner = 1; /* of no elements */
    return scales->dtype == GEM_FLOAT32 || scales->dtype == GEM_FLOAT64;
}

/* What `evaluate` is asked, and what it finds. */
typedef struct {
    gem_call call; /* the operation and the spec are given */
    long how;
    int attach; /* autograd has to be told */
} request;

/* Return the output or a tuple of them, or NULL if it is declined: whatever is wrong, the long way says so. `given`
 * are the inputs, and log_scale if the operation has scales. */
static PyObject *evaluate(request *request, PyObject *const *given)
{
    gem_call *call = &request->call;
    PyObject *made[GEM_MAX_ARRAYS] = {NULL}, *result = NULL;
    dl_tensor tensors[GEM_MAX_ARRAYS], output;
    gem_scales scales;
    const long how = request->how;
    const int inputs = gem_inputs[call->operation];
    int outputs = gem_outputs[call->operation];
    if (how >= UNSEEN && is_recorded()) goto decline;
    const int has_gradients = how >= UNSEEN && !says_no(PyObject_CallNoArgs(grad_mode));
    for (int k = 0; k < inputs; k++) {
        PyObject *input = given[k];
        if (how < UNSEEN ? !PyType_IsSubtype(Py_TYPE(input), tensor_type)
                         : Py_TYPE(input) != tensor_type || (k == 0 && asked(is_overridden, input)))
            goto decline;
        if (has_gradients && !says_no(PyObject_GetAttr(input, requires_grad))) {
            if (how == UNSEEN) goto decline;
            request->attach = 1;
        }
        /* Asked before the address, which copies what was shared until one of its owners writes. */
        if ((how != IN_PLACE && asked(is_copy_on_write, input)) || asked(is_negated, input)) goto decline;
        call->count = describe(input, &tensors[k]);
        if (call->count < 0 || !alike(&tensors[k], &tensors[0])) goto decline;
        call->arrays[outputs + k] = tensors[k].data;
    }
    call->threads = 1;
    if (call->count >= GEM_GRAIN) {
        PyObject *threads = PyObject_CallNoArgs(thread_count);
        call->threads = threads == NULL ? 1 : PyLong_AsLongLong(threads);
        Py_XDECREF(threads);
    }
    call->dtype = dtype_of(&tensors[0]);
    if (call->dtype < 0) goto decline;
    if (call->operation >= GEM_FORWARD_SCALED) {
        PyObject *log_scale = given[inputs];
        if (!describe_scales(log_scale, &tensors[0], &scales)) goto decline;
        if (has_gradients && !says_no(PyObject_GetAttr(log_scale, requires_grad))) {
            if (how == UNSEEN) goto decline;
            request->attach = 1;
        }
        call->arrays[outputs + inputs] = &scales;
        if (call->operation == GEM_BACKWARD_SCALED) {
            made[outputs] = PyObject_CallFunctionObjArgs(empty_like, log_scale, NULL);
            if (made[outputs] == NULL || describe(made[outputs], &output) != scales.channels) goto decline;
            scales.gradient = output.data;
        }
    }
    for (int k = 0; k < outputs; k++) {
        PyObject *input = given[inputs - 1];
        made[k] = how == IN_PLACE ? Py_NewRef(input) : PyObject_CallFunctionObjArgs(empty_like, input, NULL);
        if (made[k] == NULL) goto decline;
        if (describe(made[k], &output) != call->count || !alike(&output, &tensors[0])) goto decline;
        call->arrays[k] = output.data;
    }
    int code;
    if (call->count < RELEASE) {
        code = gem_run(call);
    } else {
        Py_BEGIN_ALLOW_THREADS
        code = gem_run(call);
        Py_END_ALLOW_THREADS
    }
    if (code != GEM_OK) goto decline;
    if (call->operation == GEM_BACKWARD_SCALED) outputs++;
    if (outputs == 1) return made[0];
    result = PyTuple_New(outputs);
    for (int k = 0; k < outputs && result != NULL; k++) PyTuple_SetItem(result, k, Py_NewRef(made[k]));

decline:
    for (int k = 0; k < GEM_MAX_ARRAYS; k++) Py_XDECREF(made[k]);
    PyErr_Clear();
    return result;
}

/* compute(operation, address of the spec, how, *inputs), plainly or in place: the output or a tuple of them, or None if
 * it is declined. */
static PyObject *compute(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    enum { FIRST = 3 };
    request request = {.attach = 0};
    int fits = 0;
    (void)module;
    if (given >= FIRST && exchange != NULL) {
        const long long operation = PyLong_AsLongLong(arguments[0]);
        request.call.spec = PyLong_AsVoidPtr(arguments[1]);
        request.how = PyLong_AsLong(arguments[2]);
        if (PyErr_Occurred()) return NULL;
        fits = operation >= 0 && operation < GEM_FORWARD_SCALED && given == FIRST + gem_inputs[operation]
               && (request.how == PLAINLY || (request.how == IN_PLACE && gem_outputs[operation] == 1));
        request.call.operation = operation;
    }
    if (!fits) {
        PyErr_SetString(PyExc_TypeError, "compute: expected an operation, a spec, how, and the operation's inputs");
        return NULL;
    }
    PyObject *result = evaluate(&request, arguments + FIRST);
    return result == NULL ? Py_NewRef(Py_None) : result;
}

/* What a node of autograd needs besides tensors, as torch/autograd.py has it: a tuple. */
enum { SETTINGS_FROM_OUTPUT = 2, SETTINGS_ADDRESS = 3, SETTINGS_SCALED = 4 };

static int is_set(PyObject *settings, int option) { return PyTuple_GetItem(settings, option) == Py_True; }

static const gem_spec *spec_of(PyObject *settings)
{
    PyObject *address = settings == NULL ? NULL : PyTuple_GetItem(settings, SETTINGS_ADDRESS);
    return address == NULL ? NULL : PyLong_AsVoidPtr(address);
}

/* Return the result as autograd is to see it: that of a node with these inputs, which keeps `kept`. All references to
 * `kept` and `result` are taken. */
static PyObject *attached(PyObject *apply, PyObject *settings, PyObject *kept, PyObject *result, PyObject *first,
                          PyObject *second)
{
    PyObject *state = kept == NULL ? NULL : PyTuple_Pack(3, settings, kept, result), *seen = NULL;
    if (state != NULL && second == NULL) seen = PyObject_CallFunctionObjArgs(apply, first, state, NULL);
    if (state != NULL && second != NULL) seen = PyObject_CallFunctionObjArgs(apply, first, second, state, NULL);
    Py_XDECREF(state);
    Py_XDECREF(kept);
    Py_DECREF(result);
    return seen;
}

/* activate(apply of the node, settings for each dtype, x, log_scale if it is learnt): f(x), differentiable, or None if
 * it is declined. */
static PyObject *activate(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    PyObject *first = given != 3 && given != 4 ? NULL : PyTuple_GetItem(arguments[1], GEM_FLOAT32);
    request request = {.call = {.operation = given == 4 ? GEM_FORWARD_SCALED : GEM_FORWARD}, .how = ATTACHED};
    request.call.spec = spec_of(first);
    (void)module;
    if (request.call.spec == NULL || apply_gradient == NULL) {
        PyErr_SetString(PyExc_TypeError, "activate: expected a node, settings and tensors, after bind_nodes");
        return NULL;
    }
    PyObject *x = arguments[2], *log_scale = given == 4 ? arguments[3] : NULL, *y = evaluate(&request, arguments + 2);
    if (y == NULL) Py_RETURN_NONE;
    if (!request.attach) return y;
    PyObject *settings = PyTuple_GetItem(arguments[1], (Py_ssize_t)request.call.dtype);
    PyObject *kept = log_scale != NULL ? PyTuple_Pack(2, x, log_scale)
                                       : PyTuple_Pack(1, is_set(settings, SETTINGS_FROM_OUTPUT) ? y : x);
    return attached(arguments[0], settings, kept, y, x, log_scale);
}

/* The forward pass of a node, whose result is there: forward(ctx, *inputs, (settings, kept tensors, result)). */
static PyObject *forward(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    PyObject *state = given < 3 ? NULL : arguments[given - 1];
    PyObject *result = state == NULL ? NULL : PyTuple_GetItem(state, 2);
    (void)module;
    if (result == NULL || PyObject_SetAttr(arguments[0], settings_name, PyTuple_GetItem(state, 0)) != 0 ||
        PyObject_SetAttr(arguments[0], to_save, PyTuple_GetItem(state, 1)) != 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "forward: expected a node, its inputs and state");
    if (result == arguments[1]) { /* in place */
        PyObject *dirty = PyTuple_Pack(1, result);
        const int failed = dirty == NULL || PyObject_SetAttr(arguments[0], dirty_tensors, dirty) != 0;
        Py_XDECREF(dirty);
        if (failed) return NULL;
    }
    return Py_NewRef(result);
}

/* The backward pass of a node that has kept what f was computed from, or a gradient and that, or x and log_scale; in C
 * if it can be. */
static PyObject *differentiate(PyObject *node, PyObject *grads)
{
    PyObject *settings = PyObject_GetAttr(node, settings_name), *results = NULL;
    PyObject *saved = settings == NULL ? NULL : PyObject_GetAttr(node, saved_tensors);
    request request = {.call = {.spec = spec_of(settings)}};
    if (saved == NULL || PyErr_Occurred()) goto done;
    const Py_ssize_t kept = PyTuple_Size(saved);
    PyObject *inputs[3] = {PyTuple_GetItem(grads, 0), PyTuple_GetItem(saved, 0)};
    if (kept == 2) inputs[2] = PyTuple_GetItem(saved, 1);
    if (PyErr_Occurred()) goto done;
    request.how = kept == 2 ? UNSEEN : ATTACHED;
    request.call.operation = is_set(settings, SETTINGS_SCALED) ? GEM_BACKWARD_SCALED
                             : (kept == 2 ? GEM_SECOND : GEM_BACKWARD) + is_set(settings, SETTINGS_FROM_OUTPUT);
    PyObject *result = request.call.spec == NULL ? NULL : evaluate(&request, inputs); /* or of another backend */
    if (result == NULL) {
        PyObject *function = PyObject_GetAttrString(node, "_forward_cls");
        if (function != NULL) results = PyObject_CallMethod(function, "further", "OOO", settings, saved, inputs[0]);
        Py_XDECREF(function);
        goto done;
    }
    if (request.attach)
        result = attached(apply_gradient, settings, PyTuple_Pack(2, inputs[0], inputs[1]), result, inputs[0], inputs[1]);
    if (result == NULL) goto done;
    results = kept == 2 ? PyTuple_Pack(3, PyTuple_GetItem(result, 0), PyTuple_GetItem(result, 1), Py_None)
                        : PyTuple_Pack(2, result, Py_None);
    Py_DECREF(result);

done:
    Py_XDECREF(saved);
    Py_XDECREF(settings);
    return results;
}

static PyMethodDef differentiate_method = {"apply", differentiate, METH_VARARGS, NULL};

/* bind_nodes(type of all nodes, apply of the gradient's node): `differentiate` as a method. */
static PyObject *bind_nodes(PyObject *module, PyObject *arguments)
{
    PyTypeObject *node;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyType_Type, &node, &apply_gradient)) return NULL;
    Py_INCREF(arguments); /* for ever */
    return PyDescr_NewMethod(node, &differentiate_method);
}

static PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS, NULL},
    {"bind_nodes", bind_nodes, METH_VARARGS, NULL},
    {"compute", (PyCFunction)(void (*)(void))compute, METH_FASTCALL, NULL},
    {"activate", (PyCFunction)(void (*)(void))activate, METH_FASTCALL, NULL},
    {"forward", (PyCFunction)(void (*)(void))forward, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "gem_kernels", .m_methods = methods,
                                        .m_slots = slots};

PyMODINIT_FUNC PyInit_gem_kernels(void) { return PyModuleDef_Init(&definition); }

#endif
#endif
#endif
