"""Makes object files from code typed and lowered by Numba, without Numba's engine.

Private parts of Numba are used here; tried on 0.62.1 and 0.68.1.
"""

# mypy: ignore-errors

import copy
import functools
import itertools
import re
import weakref
from types import SimpleNamespace

from llvmlite import ir
from llvmlite.binding import ObjectFileRef, create_new_module_pass_manager
from llvmlite.binding.ffi import lib
from numba import types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.typing.templates import AbstractTemplate

from fastmlp.kernels.codegen.machine import arithmetic, flushing_arithmetic, target
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.system import forks

forks.wait_for(global_compiler_lock, 3)

INT, INT32, VOID, POINTER = ir.IntType(64), ir.IntType(32), ir.VoidType(), ir.IntType(8).as_pointer()


class _Codegen(JITCPUCodegen):
    """Optimises code for `machine.target`, and emits none: a function inlined by others needs none.

    LLVM's pass managers are freed, which llvmlite leaves alive: 33 KiB a function, 4 MB a program.
    """

    def _get_host_cpu_name(self):
        return target()[1]

    def _get_host_cpu_features(self):
        return target()[2]

    def _add_module(self, module):
        pass

    def set_env(self, env_name, env):
        """Do nothing: no function compiled here needs an environment."""

    def _function_pass_manager(self, **options):
        manager, builder = super()._function_pass_manager(**options)
        manager._dispose = functools.partial(lib.LLVMPY_DisposeNewFunctionPassManger, manager._ptr)
        return manager, builder

    def _module_pass_manager(self, **options):
        manager, builder = super()._module_pass_manager(**options)
        manager._dispose = functools.partial(lib.LLVMPY_DisposeNewModulePassManger, manager._ptr)
        return manager, builder


class _WrittenLibrary(JITCodeLibrary):
    """A library of code written as LLVM instructions."""

    # Numba's three pipelines serve code made from Python: they took a third of a second for ten register
    # tiles, and did not change them.

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        passes, builder = create_new_module_pass_manager(), self._codegen._pass_builder()
        passes.add_simplify_cfg_pass()
        passes.add_new_gvn_pass()
        passes.add_instruction_combine_pass()
        passes.add_dead_code_elimination_pass()
        passes.run(self._final_module, builder)


def written_library(target, name):
    """Return an empty library in a target context, for code written as LLVM instructions."""
    return _WrittenLibrary(target.codegen(), name)


def new_target():
    """Return a target context of Numba's with its code generator; both are deleted together."""
    shared = cpu_target.target_context
    constants = copy.copy(shared._get_constants)
    constants._cache = {}  # the cache keeps the type of every code generator
    return shared.subtarget(_internal_codegen=_Codegen("fastmlp"), _get_constants=constants)


SHARED_TARGET = new_target()
"""The target context of all code shared by programs."""


def give_target(dispatcher, context):
    """Let a Numba dispatcher compile in a target context."""
    described = {"typing_context": cpu_target.typing_context, "target_context": context}
    dispatcher._compiler.targetdescr = SimpleNamespace(options=cpu_target.options, **described)
    dispatcher.targetctx = context


def machine_code_of(library, symbol):
    """Return the machine code of a finished library."""
    module = library._final_module
    names = [*module.functions, *module.global_variables]
    externals = {value.name for value in names if value.is_declaration and not value.name.startswith("llvm.")}
    return MachineCode(symbol, library._codegen._tm.emit_object(module), tuple(sorted(externals)))


NUMBERS = re.compile(r"(?<=B)\d+v\d+(?=B)|(?<=RecordILi)\d+")
"""Numbers in Numba's symbols: functions and types of records are numbered as a process meets them."""


def difference(code, other):
    """Return the difference between two object files of a function in words; None if equal.

    Sections are compared byte by byte, but the tables of symbols: the length of Numba's numbers moves these.
    """
    if [*map(_plain, code.externals)] != [*map(_plain, other.externals)]:
        return "a symbol that is called"
    for left, right in itertools.zip_longest(_sections(code), _sections(other)):
        if left != right:
            return f"section {(left or right)[0]}"
    return None


def _sections(code):
    """Return (name, size, content) of the sections; without content for zero-filled sections and symbols."""
    sections = []
    for section in ObjectFileRef.from_data(code.object_code).sections():
        name = _plain((section.name() or b"").decode())
        if name not in ("", ".symtab", ".strtab"):
            sections.append((name, section.size(), None if "bss" in name else section.data()))
    return sections


def _plain(symbol):
    return NUMBERS.sub("", symbol)


def assembly_of(library):
    """Return the assembly of a finished library."""
    return library._codegen._tm.emit_assembly(library._final_module)


def python_call(builder, name, result, *values):
    """Emit a call of a function in `engine.PYTHON`, Python's C API."""
    signature = ir.FunctionType(result, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), values)


def initialize_runtime():
    """Let the loader find the symbols of Numba's runtime, for code that allocates or raises."""
    rtsys.initialize(cpu_target.target_context)


# --- intrinsics of a program of one network, which are deleted with the program ---------------------------
#
# Numba keeps every `@intrinsic` in its registries for ever: 8 MB for each network that had a program of its
# own, a gigabyte after a search over a hundred shapes. Only the program that uses them refers to these.


class Intrinsic:
    """Numba's `@intrinsic`, forgotten by Numba with the last reference."""

    def __init__(self, definition):
        functools.update_wrapper(self, definition)
        del self.__wrapped__  # Numba would take that for the function which jitted code calls
        self._defn = definition  # the name of Numba's intrinsics, which digests read
        parts = {"key": self.__name__, "definition": staticmethod(definition), "known": {}}
        template = type(f"{self.__name__}_template", (_Template,), parts)
        # The table refers to its keys weakly; the template must not refer to the intrinsic, its key.
        cpu_target.typing_context.insert_global(self, types.Function(template))
        weakref.finalize(self, _forget, template.known)

    def __deepcopy__(self, memo):
        return self


class _Template(AbstractTemplate):
    """Types a call, and registers the call's code generator under a unique key."""

    def generic(self, args, kws):
        """Return the signature of a call, or None."""
        args = tuple(map(types.unliteral, args))
        if args not in self.known:
            match = self.definition(self.context, *args)
            if match is None:
                return None
            signature, emit = match
            key = f"{self.key} {id(emit)}"
            cpu_target.target_context.insert_func_defn([(emit, key, signature.args)])
            self.known[args] = self.known[signature.args] = signature, key
        return self.known[args][0]

    def get_impl_key(self, signature):
        """Return the key of the code generator."""
        return self.known[signature.args][1]


def _forget(known):
    for key in {key for _, key in known.values()}:
        cpu_target.target_context.remove_user_function(key)


# --- entry points -----------------------------------------------------------------------------------------


def emit_entry(compiled, name, flushes, raises):
    """Return the machine code of an entry point around the only overload of a dispatcher.

    flushes : whether subnormal numbers count as 0; raises : whether custom kernels may raise errors
    """
    (made,) = compiled.overloads.values()
    context = compiled.targetctx
    library = context.codegen().create_library(name)
    module = library.create_ir_module(name)
    inner = context.declare_function(module, made.fndesc)
    function = ir.Function(module, ir.FunctionType(POINTER, [POINTER, INT, INT]), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    before = flushing_arithmetic(builder) if flushes else None
    arguments = made.signature.args
    values = context.get_arg_packer(arguments).as_arguments(builder, function.args)
    status, _ = context.call_conv.call_function(builder, inner, types.none, arguments, values)
    if flushes:
        arithmetic(builder, before)
    with cgutils.if_unlikely(builder, status.is_error):
        builder.ret(_fetched_error(context, builder, status, raises))
    builder.ret(ir.Constant(POINTER, None))
    library.add_linking_library(made.library)
    library.add_ir_module(module)
    library.finalize()
    return machine_code_of(library, name)


def _fetched_error(context, builder, status, raises):
    """Emit code for the address of the error set by Python, or raised by the kernel."""
    api = context.get_python_api(builder)
    gil = python_call(builder, "PyGILState_Ensure", INT32)
    if raises:
        context.call_conv.raise_error(builder, api, status)
    else:
        with builder.if_then(builder.not_(status.is_python_exc)):
            api.err_set_string("PyExc_SystemError", "a kernel of fastmlp's own raised an error")
    kind, value, trace = (cgutils.alloca_once_value(builder, ir.Constant(POINTER, None)) for _ in range(3))

    call = functools.partial(python_call, builder)
    call("PyErr_Fetch", VOID, kind, value, trace)
    call("PyErr_NormalizeException", VOID, kind, value, trace)
    error = builder.load(value)
    has_trace = cgutils.is_not_null(builder, builder.load(trace))
    with builder.if_then(builder.and_(has_trace, cgutils.is_not_null(builder, error))):
        call("PyException_SetTraceback", INT32, error, builder.load(trace))
    call("Py_DecRef", VOID, builder.load(kind))
    call("Py_DecRef", VOID, builder.load(trace))
    call("PyGILState_Release", VOID, gil)
    return error
