"""The call record (`fastmlp.kernels.program.records`) in compiled code: an object with attributes.

`call.step` is a whole number; `call.parameters` is an array, whose shape follows from numbers of the call.
Nothing writes to the words of a call while a program runs. LLVM has the hint, and reads each word once.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, lower_getattr_generic, models, register_model
from numba.np.numpy_support import from_dtype

from fastmlp.kernels.codegen.views import view
from fastmlp.kernels.program.records import ARRAYS, NUMBERS, WORDS

INT = ir.IntType(64)


class CallRecord(types.Type):
    """Numba's type of a call.

    dtype : of the network's numbers, one of Numba's types
    """

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"call({dtype})")

    def kind_of(self, name):
        """Return the type of an attribute; None if unknown."""
        if name in NUMBERS:
            return types.intp
        if name not in ARRAYS:
            return None
        dtype, shape = ARRAYS[name]
        dtype = self.dtype if dtype is None else from_dtype(np.dtype(dtype))
        return types.Array(dtype, len(shape), "C") if shape else dtype


register_model(CallRecord)(models.OpaqueModel)


@infer_getattr
class _Attributes(AttributeTemplate):
    key = CallRecord

    def generic_resolve(self, record, name):
        return record.kind_of(name)


@lower_getattr_generic(CallRecord)
def _read(context, builder, record, value, name):
    words = builder.bitcast(value, INT.as_pointer())
    never_changes = builder.module.add_metadata([])

    def word(name):
        value = builder.load(builder.gep(words, [INT(WORDS[name])]))
        value.set_metadata("invariant.load", never_changes)
        return value

    kind, number = record.kind_of(name), word(name)
    if name in NUMBERS:
        return number
    if isinstance(kind, types.Record):
        return builder.inttoptr(number, context.get_value_type(kind))
    address = builder.inttoptr(number, context.get_data_type(types.CPointer(kind.dtype)))
    return view(
        context, builder, kind, address, [word(n) if isinstance(n, str) else INT(n) for n in ARRAYS[name][1]]
    )
