"""One register tile of a matrix product, C[m, n] = finish(start + sum_k A[m, k] * B[k, n]).

A tile holds `rows` x `vectors` accumulators in registers and walks k once: `vectors` loads of
B and `rows` broadcasts of A feed rows * vectors FMAs. A is read by scalars, so its strides
are free: (ld, 1) makes X @ W and (1, ld) makes X.T @ D of the same code.

Every element is one chain of FMAs over ascending k, whatever tile it falls in: results do not
depend on how rows and columns are cut, to the last bit.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.vectors import INT, ITEMSIZE, POINTER, Vectors, define, element, host

# How it ends: C = acc; C = max(acc, 0); C = beta * C + alpha * acc; C = acc where start > 0, else 0.
STORE, RELU, UPDATE, GATE = range(4)

# Where the elements of A lie: by strides, or with the rows of X in the order of an index array,
# read where they are: in "rows" the index follows m (X @ W), in "depth" it follows k (X.T @ D).
KINDS = "strided", "rows", "depth"

MACHINE = host()


def shapes(machine, kind):
    """The machine's shapes, less those whose row pointers would not fit the integer registers."""
    most = 8 if kind == "rows" else 12
    return [[m for m in heights if m <= most] for heights in machine.shapes]


def multiples(build, stride, count):
    """[0, stride, 2 * stride, ...] such that LLVM keeps them apart.

    Left to itself it makes each row of A from the one before, a chain of `count` dependent adds
    in every round of k that held an 8x1 tile to half its speed. An empty piece of assembly hides
    where the odd multiples come from; the even ones are theirs, scaled by 2, 4 or 8 in the
    addressing of the load, so that 12 rows take 6 integer registers.
    """
    hide = ir.FunctionType(INT, [INT])
    found = [INT(0)]
    for m in range(1, count):
        power = m & -m
        if power == 1:
            found.append(build.asm(hide, "", "=r,0", [build.mul(stride, INT(m))], False))
        else:
            found.append(build.mul(found[m // power], INT(power)))
    return found


def emit_tile(module, machine, dtype, kind, rows, vectors, masked):
    """The function of one tile shape."""
    name = f"tile_{kind}_{dtype}_{machine.vector_bytes}_{rows}x{vectors}{'_masked' if masked else ''}"
    integers = "columns", "depth", "a_row", "a_step", "b_row", "start_row", "c_row", "finish"
    pointers = "a", "order", "b", "start", "c"
    scalar = Vectors.scalar_type(dtype)
    function, empty = define(
        module,
        name,
        [(label, POINTER) for label in pointers]
        + [(label, INT) for label in integers]
        + [("alpha", scalar), ("beta", scalar)],
    )
    if not empty:
        return function
    a, order, b, start, c, columns, depth, a_row, a_step, b_row, start_row, c_row, finish, alpha, beta = (
        function.args
    )
    build = ir.IRBuilder(function.append_basic_block("entry"))
    v = Vectors(build, dtype, machine.vector_bytes)
    grid = [(m, j) for m in range(rows) for j in range(vectors)]
    mask = v.first(build.sub(columns, INT((vectors - 1) * v.lanes))) if masked else None
    masks = [None] * (vectors - 1) + [mask]

    # How far row m of A is from row 0.
    if kind == "strided":
        distances = multiples(build, a_row, rows)
    elif kind == "rows":
        indices = [build.load(build.gep(order, [INT(m)], source_etype=INT), typ=INT) for m in range(rows)]
        distances = [build.mul(a_row, index) for index in indices]
        a, distances = v.shift(a, distances[0]), [build.sub(d, distances[0]) for d in distances]
    else:
        distances = [INT(m * v.itemsize) for m in range(rows)]

    # A branch, not loads under an empty mask: a masked-off load of an unmapped page (null) is
    # suppressed by a microcode assist of some thousand cycles.
    started = build.icmp_unsigned("!=", start, ir.Constant(POINTER, None))
    started = build.and_(started, build.icmp_signed("!=", finish, INT(GATE)))
    from_start, begin = function.append_basic_block("from_start"), function.append_basic_block("begin")
    before = build.block
    build.cbranch(started, from_start, begin)
    build.position_at_end(from_start)
    loaded = [
        v.load(v.shift(v.shift(start, build.mul(start_row, INT(m))), j * v.bytes), masks[j]) for m, j in grid
    ]
    build.branch(begin)
    build.position_at_end(begin)
    initial = []
    for value in loaded:
        phi = build.phi(v.type)
        phi.add_incoming(v.zero, before)
        phi.add_incoming(value, from_start)
        initial.append(phi)

    loop, done = function.append_basic_block("loop"), function.append_basic_block("done")
    build.cbranch(build.icmp_signed(">", depth, INT(0)), loop, done)
    build.position_at_end(loop)
    k, a_pointer, b_pointer = build.phi(INT), build.phi(POINTER), build.phi(POINTER)
    carried = [build.phi(v.type) for _ in grid]
    b_vectors = [v.load(v.shift(b_pointer, j * v.bytes), masks[j]) for j in range(vectors)]
    a_column = a_pointer
    if kind == "depth":
        index = build.load(build.gep(order, [k], source_etype=INT), typ=INT)
        a_column = v.shift(a, build.mul(index, a_step))
    advanced = []
    for m in range(rows):
        broadcast = v.broadcast(v.shift(a_column, distances[m]))
        advanced += [v.fma(broadcast, b_vectors[j], carried[m * vectors + j]) for j in range(vectors)]
    following = build.add(k, INT(1)), v.shift(a_pointer, a_step), v.shift(b_pointer, b_row)
    for phi, first, after in zip(
        [k, a_pointer, b_pointer, *carried], [INT(0), a, b, *initial], [*following, *advanced]
    ):
        phi.add_incoming(first, begin)
        phi.add_incoming(after, loop)
    build.cbranch(build.icmp_signed("<", following[0], depth), loop, done)

    build.position_at_end(done)
    sums = []
    for first, after in zip(initial, advanced):
        phi = build.phi(v.type)
        phi.add_incoming(first, begin)
        phi.add_incoming(after, loop)
        sums.append(phi)
    targets = [v.shift(v.shift(c, build.mul(c_row, INT(m))), j * v.bytes) for m, j in grid]

    relu, update, gate, store = (function.append_basic_block(n) for n in ("relu", "update", "gate", "store"))
    choice = build.switch(finish, store)
    for code, block in (RELU, relu), (UPDATE, update), (GATE, gate):
        choice.add_case(INT(code), block)
    build.position_at_end(store)
    for (_, j), value, target in zip(grid, sums, targets):
        v.store(value, target, masks[j])
    build.ret_void()
    build.position_at_end(relu)
    for (_, j), value, target in zip(grid, sums, targets):
        v.store(v.relu(value), target, masks[j])
    build.ret_void()
    build.position_at_end(update)
    scale, keep = v.splat(alpha), v.splat(beta)
    for (_, j), value, target in zip(grid, sums, targets):
        kept = build.fmul(keep, v.load(target, masks[j]))
        v.store(v.fma(scale, value, kept), target, masks[j])
    build.ret_void()
    build.position_at_end(gate)
    for (m, j), value, target in zip(grid, sums, targets):
        guide = v.load(v.shift(v.shift(start, build.mul(start_row, INT(m))), j * v.bytes), masks[j])
        v.store(build.select(build.fcmp_ordered(">", guide, v.zero), value, v.zero), target, masks[j])
    build.ret_void()
    return function


def emit_choice(module, machine, dtype, kind):
    """The function that takes a tile of any size to the code of its shape."""
    arguments = list(emit_tile(module, machine, dtype, kind, 1, 1, True).args)
    name = f"tile_{kind}_{dtype}_{machine.vector_bytes}"
    function, empty = define(module, name, [("rows", INT)] + [(x.name, x.type) for x in arguments])
    if not empty:
        return function
    build = ir.IRBuilder(function.append_basic_block("entry"))
    rows, *passed = function.args
    columns = next(x for x in passed if x.name == "columns")
    lanes = Vectors(build, dtype, machine.vector_bytes).lanes
    vectors = build.sdiv(build.add(columns, INT(lanes - 1)), INT(lanes))
    whole = build.icmp_signed("==", build.mul(vectors, INT(lanes)), columns)
    code = build.add(build.mul(rows, INT(8)), vectors)
    if not machine.masks:
        code = build.add(build.mul(code, INT(2)), build.zext(whole, INT))
    nothing = function.append_basic_block("nothing")
    choice = build.switch(code, nothing)
    build.position_at_end(nothing)
    build.ret_void()
    for j, heights in enumerate(shapes(machine, kind), 1):
        for m in heights:
            for masked in (True,) if machine.masks else (True, False):
                block = function.append_basic_block(f"{m}x{j}")
                shape = 8 * m + j if machine.masks else 2 * (8 * m + j) + (not masked)
                choice.add_case(INT(shape), block)
                build.position_at_end(block)
                build.call(emit_tile(module, machine, dtype, kind, m, j, masked), passed, tail=True)
                build.ret_void()
    return function


def tile_intrinsic(machine, kind):
    """The intrinsic `tile` for a machine and kind. All positions, rows and steps count elements.

    tile(rows, columns, depth, a, a_at, a_row, a_step, order, order_at, b, b_at, b_row,
         start, start_at, start_row, c, c_at, c_row, finish, alpha, beta)

    rows, columns : size of the tile, one of the machine's shapes
    depth : number of terms of each sum
    a : its element (m, k) is, by kind,
        strided  a[a_at + m * a_row + k * a_step]
        rows     a[a_at + order[order_at + m] * a_row + k * a_step]
        depth    a[a_at + m + order[order_at + k] * a_step]
    order : int64, or None when strided
    b : rows of B, read from b[b_at + k * b_row]
    start : None for 0, or an array: the chain of (m, n) starts at start[start_at + m * start_row + n]
        (a bias with start_row = 0, or c itself to resume); for GATE, the array that gates
    c : overwritten, at c[c_at + m * c_row]
        b, start and c may be addresses (see `address`) in place of an array and its position
    finish : STORE, RELU, GATE or UPDATE, the only one that reads alpha and beta

    Raw pointers: nothing is checked, nothing is counted, and the arrays are used as flat memory.
    """

    @intrinsic
    def tile(
        typing_context, rows, columns, depth, a, a_at, a_row, a_step, order, order_at, b, b_at, b_row,
        start, start_at, start_row, c, c_at, c_row, finish, alpha, beta,
    ):  # fmt: skip
        dtype = a.dtype
        integer = types.intp

        def emit(context, build, signature, arguments):
            kinds = signature.args

            rows, columns, depth = arguments[:3]
            at = lambda i: element(context, build, kinds[i], arguments[i], arguments[i + 1])
            size = lambda i: build.mul(arguments[i], INT(ITEMSIZE[dtype]))
            pointers = [at(3), at(7), at(9), at(12), at(15)]
            strides = [size(5), size(6), size(11), size(14), size(17)]
            function = emit_choice(build.module, machine, dtype, kind)
            build.call(function, [rows, *pointers, columns, depth, *strides, *arguments[18:]])
            return context.get_dummy_value()

        signature = types.void(
            integer, integer, integer, a, integer, integer, integer, order, integer, b, integer, integer,
            start, integer, integer, c, integer, integer, integer, dtype, dtype,
        )  # fmt: skip
        return signature, emit

    return tile


def first_rows(machine, kind):
    """Which tile to take when `left` rows are to do: table[vectors, left], for left below its width.

    The cut of least cost by what a tile takes: its FMAs (two a cycle, latency 4), its loads
    (two a cycle), and a constant worth about a tenth of its work.
    """
    width = 2 * max(max(heights) for heights in machine.shapes) + 1
    table = np.zeros((machine.vectors + 1, width + 1), np.int64)
    for j, heights in enumerate(shapes(machine, kind), 1):
        cost = [0.0] * width
        for left in range(1, width):
            round_of_k = {m: max(m * j / 2, (m + j) / 2, 4) for m in heights if m <= left}
            options = [(c * 1.1 + cost[left - m], -m) for m, c in round_of_k.items()]
            cost[left], negative = min(options)
            table[j, left] = -negative
        table[j, width] = max(heights)
    return table


tile = tile_intrinsic(MACHINE, "strided")
tile_of_rows = tile_intrinsic(MACHINE, "rows")
tile_of_depth = tile_intrinsic(MACHINE, "depth")
