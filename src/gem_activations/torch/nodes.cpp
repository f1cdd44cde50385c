/* The nodes of autograd in C++: a call and its backward passes cost what those of PyTorch's own activations do.
 *
 * They do what source/module.c and autograd.py do for contiguous CPU tensors, by the same kernels, without Python in the
 * backward passes. What is out of the ordinary goes back to Python: `activate` returns None, and a node calls `further`
 * of its class in autograd.py or scale.py, which knows traced tensors, transforms, hooks and every order.
 *
 * PyTorch promises no binary interface for nodes, so that the module serves the one version it was built for;
 * backends.py looks.
 */
#include <Python.h>

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/PyInterpreter.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/object_ptr.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <vector>

extern "C" {
#include "../kernels/cpu/source/gem.h"
}

namespace {

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

/* Of the whole process; `bind` sets them. */
decltype(&gem_run) run_kernel = nullptr;
PyObject *gradient_class = nullptr;

/* Below this many elements other Python threads wait for the kernel. */
constexpr int64_t RELEASE = 4096;

int64_t code_of(at::ScalarType dtype)
{
    switch (dtype) {
    case at::kFloat: return GEM_FLOAT32;
    case at::kDouble: return GEM_FLOAT64;
    case at::kBFloat16: return GEM_BFLOAT16;
    case at::kHalf: return GEM_FLOAT16;
    default: return -1;
    }
}

/* Whether nothing but autograd has to see what is computed: no mode, no transform, no tracer. */
bool is_unseen()
{
    const auto included = c10::impl::tls_local_dispatch_key_set().included_;
    return (included - c10::default_included_set).empty() && !torch::jit::tracer::isTracing();
}

/* Whether a tensor is dense CPU memory in its usual order, of a dtype that the kernels know, and without a tangent: no
 * subclass, view that negates, batch, zeros that are not stored, or the like, each of which has a key of its own. */
bool is_ordinary(const Tensor &x)
{
    using c10::DispatchKey;
    constexpr c10::DispatchKeySet usual(
        {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU, DispatchKey::ADInplaceOrView});
    return x.defined() && (x.key_set() | usual) == usual && code_of(x.scalar_type()) >= 0 && x.is_contiguous() &&
           (x.numel() == 0 || x.const_data_ptr() != nullptr) && !x._fw_grad(0).defined();
}

/* By const_data_ptr: what is shared until one of its owners writes stays shared. */
void *address_of(const Tensor &x) { return const_cast<void *>(x.const_data_ptr()); }

Tensor empty_as(const Tensor &x) { return Tensor(at::detail::empty_cpu(x.sizes(), x.scalar_type())); }

/* Compute outputs[0 .. count) from inputs that are ordinary, of one shape and one dtype; else, or if the library
 * refuses, return false. */
bool compute(const gem_spec *spec, int64_t operation, std::initializer_list<const Tensor *> inputs, Tensor *outputs,
             int count, gem_scales *scales = nullptr)
{
    const Tensor &first = **inputs.begin();
    for (const Tensor *input : inputs)
        if (!is_ordinary(*input) || input->scalar_type() != first.scalar_type() || input->sizes() != first.sizes())
            return false;
    gem_call call{spec, operation, code_of(first.scalar_type()), first.numel(), 1, {}};
    if (call.count >= GEM_GRAIN) call.threads = at::get_num_threads();
    void **next = call.arrays;
    for (int k = 0; k < count; k++) {
        outputs[k] = empty_as(first);
        *next++ = outputs[k].mutable_data_ptr();
    }
    for (const Tensor *input : inputs) *next++ = address_of(*input);
    *next = scales;
    return run_kernel(&call) == GEM_OK;
}

/* Describe the scales of x, of shape (channels,) along its second dimension; false if they are out of the ordinary. */
bool describe_scales(const Tensor &log_scale, const Tensor &x, gem_scales *scales)
{
    if (!is_ordinary(log_scale)) return false;
    const int64_t channels = log_scale.numel(), dtype = code_of(log_scale.scalar_type());
    if (channels < 1 || (channels > 1 && (x.dim() < 2 || x.size(1) != channels))) return false;
    int64_t inner = 1;
    for (int64_t k = 2; k < x.dim(); k++) inner *= x.size(k);
    *scales = {address_of(log_scale), nullptr, dtype, channels, std::max<int64_t>(inner, 1)};
    return dtype == GEM_FLOAT32 || dtype == GEM_FLOAT64;
}

/* Return a class that stays to the end: a node outlives a Python module that is loaded anew. */
PyObject *keep_for_ever(PyObject *python_class)
{
    static std::vector<PyObject *> kept;
    if (std::find(kept.begin(), kept.end(), python_class) == kept.end()) kept.push_back(Py_NewRef(python_class));
    return python_class;
}

/* What a node needs besides tensors. */
struct Rule {
    /* Settings of autograd.py, a tuple, which keeps the spec; and at which of its positions what stands. */
    std::shared_ptr<c10::SafePyObject> settings;
    enum { FROM_OUTPUT = 2, ADDRESS = 3 };
    const gem_spec *spec = nullptr;
    bool from_output = false;
    PyObject *python_class = nullptr; /* with `further`; one that is kept for ever */

    Rule() = default;
    Rule(PyObject *tuple, PyObject *python_class)
        : settings(std::make_shared<c10::SafePyObject>(Py_NewRef(tuple), getPyInterpreter())),
          spec(static_cast<const gem_spec *>(PyLong_AsVoidPtr(PyTuple_GetItem(tuple, ADDRESS)))),
          from_output(PyTuple_GetItem(tuple, FROM_OUTPUT) == Py_True), python_class(python_class)
    {
    }
};

/* A node that keeps tensors and can be differentiated by Python, too. */
struct KernelNode : Node {
    Rule rule;
    std::vector<SavedVariable> kept;

    void release_variables() override
    {
        std::lock_guard<std::mutex> lock(mutex_);
        for (SavedVariable &each : kept) each.reset_data();
    }

    variable_list apply(variable_list &&grads) override
    {
        if (!grads[0].defined()) return variable_list(num_outputs());
        variable_list tensors;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            for (const SavedVariable &each : kept) tensors.push_back(each.unpack(getptr()));
        }
        variable_list results(num_outputs());
        return is_unseen() && differentiate(grads[0], tensors, results) ? results : further(grads[0], tensors);
    }

    void compiled_args(torch::dynamo::autograd::CompiledNodeArgs &) const override
    {
        TORCH_CHECK_NOT_IMPLEMENTED(false, "gem_activations: compiled autograd takes no graph that was made outside compiled "
                                           "code; compile the model as well");
    }

    /* Put the gradients into `results`, or return false if Python has to. */
    virtual bool differentiate(const Tensor &grad, const variable_list &tensors, variable_list &results) = 0;

    variable_list further(const Tensor &grad, const variable_list &tensors)
    {
        pybind11::gil_scoped_acquire gil;
        THPObjectPtr saved(PyTuple_New(static_cast<Py_ssize_t>(tensors.size())));
        for (size_t k = 0; saved && k < tensors.size(); k++)
            PyTuple_SetItem(saved.get(), static_cast<Py_ssize_t>(k), THPVariable_Wrap(tensors[k]));
        THPObjectPtr gradient(THPVariable_Wrap(grad)), found;
        if (saved && gradient)
            found = PyObject_CallMethod(rule.python_class, "further", "OOO", rule.settings->ptr(getPyInterpreter()),
                                        saved.get(), gradient.get());
        variable_list results(num_outputs());
        for (size_t k = 0; found && k < results.size(); k++) {
            PyObject *each = PyTuple_GetItem(found.get(), static_cast<Py_ssize_t>(k));
            if (each != nullptr && each != Py_None) results[k] = THPVariable_Unpack(each);
        }
        if (PyErr_Occurred()) {
            python_error error;
            error.persist();
            throw error;
        }
        return results;
    }
};

/* Make `result` known as that of a node which keeps tensors, its inputs unless it keeps `result` itself. */
template <class NodeType>
void attach(Rule rule, std::initializer_list<Tensor> inputs, bool keeps_result, const Tensor &result)
{
    auto node = c10::make_intrusive<NodeType>();
    for (const Tensor &input : inputs) node->add_next_edge(torch::autograd::impl::gradient_edge(input));
    node->rule = std::move(rule);
    torch::autograd::set_history(result, node);
    node->kept.reserve(inputs.size());
    if (keeps_result) node->kept.emplace_back(result, true);
    else
        for (const Tensor &input : inputs) node->kept.emplace_back(input, false);
}

/* grad d1, keeping grad and what f was computed from: DirectGradient of autograd.py. */
struct GradientNode : KernelNode {
    std::string name() const override { return "GemGradientBackward"; }

    bool differentiate(const Tensor &grad_grad, const variable_list &tensors, variable_list &results) override
    {
        if (torch::autograd::compute_requires_grad(grad_grad, tensors[0], tensors[1])) return false;
        return compute(rule.spec, GEM_SECOND + rule.from_output, {&grad_grad, &tensors[0], &tensors[1]}, results.data(), 2);
    }
};

/* f(x), keeping x or f(x): DirectActivation of autograd.py. */
struct ActivationNode : KernelNode {
    std::string name() const override { return "GemActivationBackward"; }

    bool differentiate(const Tensor &grad, const variable_list &tensors, variable_list &results) override
    {
        if (!compute(rule.spec, GEM_BACKWARD + rule.from_output, {&grad, &tensors[0]}, results.data(), 1)) return false;
        if (torch::autograd::compute_requires_grad(grad, tensors[0])) {
            Rule following = rule;
            following.python_class = gradient_class;
            attach<GradientNode>(std::move(following), {grad, tensors[0]}, false, results[0]);
        }
        return true;
    }
};

/* f(x) with scales from memory, keeping x and log_scale: DirectScaled of scale.py. */
struct ScaledNode : KernelNode {
    std::string name() const override { return "GemScaledBackward"; }

    bool differentiate(const Tensor &grad, const variable_list &tensors, variable_list &results) override
    {
        const Tensor &x = tensors[0], &log_scale = tensors[1];
        gem_scales scales;
        if (torch::autograd::compute_requires_grad(grad, x, log_scale) || !describe_scales(log_scale, x, &scales))
            return false;
        results[1] = empty_as(log_scale);
        scales.gradient = results[1].mutable_data_ptr();
        return compute(rule.spec, GEM_BACKWARD_SCALED, {&grad, &x}, results.data(), 1, &scales);
    }
};

bool is_tensor(PyObject *object) { return Py_TYPE(object) == reinterpret_cast<PyTypeObject *>(THPVariableClass); }

/* activate(apply of the node's class, settings for each dtype, x, log_scale if it is learnt): f(x), differentiable, or
 * None if it is declined. */
PyObject *activate(PyObject *, PyObject *const *arguments, Py_ssize_t given)
{
    HANDLE_TH_ERRORS
    if ((given != 3 && given != 4) || run_kernel == nullptr || !PyTuple_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "activate: expected a node, settings and tensors, after bind");
        return nullptr;
    }
    PyObject *scale = given == 4 ? arguments[3] : nullptr;
    if (!is_tensor(arguments[2]) || (scale != nullptr && !THPVariable_CheckExact(scale)) || !is_unseen() ||
        at::impl::torch_function_mode_enabled())
        Py_RETURN_NONE;
    const Tensor &x = THPVariable_Unpack(arguments[2]), log_scale = scale ? THPVariable_Unpack(scale) : Tensor();
    gem_scales scales;
    if (!is_ordinary(x) || (scale != nullptr && !describe_scales(log_scale, x, &scales))) Py_RETURN_NONE;
    PyObject *settings = PyTuple_GetItem(arguments[1], code_of(x.scalar_type()));
    PyObject *spec = settings == nullptr ? nullptr : PyTuple_GetItem(settings, Rule::ADDRESS);
    if (spec == nullptr) return nullptr;
    Tensor y;
    bool computed;
    {
        std::unique_ptr<pybind11::gil_scoped_release> others;
        if (x.numel() >= RELEASE) others = std::make_unique<pybind11::gil_scoped_release>();
        computed = compute(static_cast<const gem_spec *>(PyLong_AsVoidPtr(spec)),
                           scale == nullptr ? GEM_FORWARD : GEM_FORWARD_SCALED, {&x}, &y, 1, scale ? &scales : nullptr);
    }
    if (!computed) Py_RETURN_NONE;
    if (torch::autograd::compute_requires_grad(x, log_scale)) {
        Rule rule(settings, keep_for_ever(PyCFunction_GetSelf(arguments[0])));
        if (scale != nullptr) attach<ScaledNode>(std::move(rule), {x, log_scale}, false, y);
        else {
            const bool from_output = rule.from_output;
            attach<ActivationNode>(std::move(rule), {x}, from_output, y);
        }
    }
    return THPVariable_Wrap(std::move(y));
    END_HANDLE_TH_ERRORS
}

/* bind(address of gem_run, apply of the gradient's class). */
PyObject *bind(PyObject *, PyObject *arguments)
{
    PyObject *address, *apply_gradient;
    if (!PyArg_ParseTuple(arguments, "OO", &address, &apply_gradient)) return nullptr;
    PyObject *found = PyCFunction_GetSelf(apply_gradient);
    if (found == nullptr) return nullptr;
    gradient_class = keep_for_ever(found);
    run_kernel = reinterpret_cast<decltype(run_kernel)>(PyLong_AsVoidPtr(address));
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"bind", bind, METH_VARARGS, nullptr},
    {"activate", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(activate)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "nodes", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_nodes(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == nullptr || PyModule_AddStringConstant(module, "torch_version", GEM_TORCH_VERSION) != 0 ||
        PyModule_AddIntConstant(module, "kernel_interface", GEM_ABI_VERSION) != 0) {
        Py_XDECREF(module);
        return nullptr;
    }
    return module;
}
