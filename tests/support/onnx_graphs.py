"""Random ONNX graphs for the reader: chains of layers in all ways of writing them, and damaged files."""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

UNARY = ["Neg", "Abs", "Sign", "Sin", "Cos", "Tanh", "Erf", "Sigmoid", "Relu", "Softplus", "Exp", "Identity"]
UNARY += ["Elu", "LeakyRelu", "Gelu", "Softmax", "Log", "Sqrt"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"]
COMPARISONS = ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"]
OTHERS = ["Where", "Not", "And", "Gemm", "MatMul", "Cast", "Transpose", "Reshape", "Flatten", "Dropout"]

ATTRIBUTES = {
    "Elu": [{}, {"alpha": 1.0}, {"alpha": 0.5}],
    "LeakyRelu": [{}, {"alpha": 0.01}, {"alpha": 0.2}],
    "Gelu": [{}, {"approximate": "none"}, {"approximate": "tanh"}],
    "Softmax": [{}, {"axis": 1}, {"axis": -1}, {"axis": 0}],
}
TYPES = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL]


def file(path, nodes, kind=TensorProto.DOUBLE, version=20, shape=("rows", 3), own="", **arrays):
    """A file of nodes (operator, inputs, output, attributes), from X to the last node's output.

    own : a domain of operators of somebody's own
    """
    made = [helper.make_node(operator, ins, [out], **more) for operator, ins, out, more in nodes]
    ends = [
        helper.make_tensor_value_info("X", kind, shape),
        helper.make_tensor_value_info(nodes[-1][2], kind, [None, None]),
    ]
    known = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(made, "by hand", ends[:1], ends[1:], known)
    versions = [helper.make_opsetid("", version), *([helper.make_opsetid(own, 1)] if own else [])]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=9), path)
    return path


class Drawn:
    """A graph of float32 or float64, every choice of which is drawn.

    trap : the probability of a choice that no chain of layers has
    """

    def __init__(self, rng, trap):
        self.rng, self.trap = rng, trap
        self.dtype = rng.choice([np.float32, np.float64])
        self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        self.nodes, self.arrays = [], {}

    def one_of(self, usual, *traps):
        choices = traps if traps and self.rng.random() < self.trap else usual
        return choices[self.rng.integers(len(choices))]

    def add(self, operator, inputs, **attributes):
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def array(self, values):
        """The name of an array: an initializer, or what a node gives."""
        way, values = self.rng.integers(4), np.asarray(values)
        if way == 0:
            return self.add("Constant", [], value=numpy_helper.from_array(values))
        if way == 1 and values.dtype == np.float32 and values.ndim < 2:
            return self.add(
                "Constant", [], **{"value_floats" if values.ndim else "value_float": values.tolist()}
            )
        name = f"a{len(self.arrays)}"
        self.arrays[name] = values
        return self.add("Identity", [name]) if way == 2 and values.dtype == self.dtype else name

    def numbers(self, *shape):
        return self.array(self.rng.normal(size=shape).astype(self.dtype))

    def matrix(self, n_in, n_out):
        if self.rng.random() < 0.7:
            return self.numbers(n_in, n_out)
        return self.add(
            "Transpose", [self.numbers(n_out, n_in)], **self.one_of([{}, {"perm": [1, 0]}], {"perm": [0, 1]})
        )

    def row(self, units):
        """What is added to every row of a matrix."""
        return self.numbers(*self.one_of([(units,), (1, units)], (1,), (), (units, 1), (1, 1, units), (2,)))

    def layer(self, value, n_in, n_out):
        if self.rng.random() < 0.5:
            attributes = {
                name: float(self.rng.normal()) for name in ("alpha", "beta") if self.rng.random() < 0.3
            }
            turned = self.rng.random() < 0.3
            weights = self.matrix(n_out, n_in) if turned else self.matrix(n_in, n_out)
            bias = self.one_of([[], [self.row(n_out)]])
            return self.add("Gemm", [value, weights, *bias], transB=int(turned), **attributes)
        value = self.add("MatMul", [value, self.matrix(n_in, n_out)])
        if self.rng.random() < 0.7:
            value = self.add("Add", self.rng.permutation([value, self.row(n_out)]).tolist())
        return value

    def passed(self, value, units):
        """Append a node that leaves a matrix as it is, or seems to."""
        match operator := self.one_of(
            ["Identity", "Dropout", "Cast", "Flatten", "Reshape"], "Transpose", "Squeeze"
        ):
            case "Cast":
                to = self.one_of([self.kind], *TYPES)
                value = self.add("Cast", [value], to=to)
                return value if to == self.kind else self.add("Cast", [value], to=self.kind)
            case "Flatten":
                axis = self.one_of([1, -1], 0, 2)
                return self.add("Flatten", [value], axis=axis)
            case "Reshape":
                usual = [[-1, units], [0, units], [0, -1]]
                shape = self.one_of(usual, [-1], [units, -1], [-1, 1], [1, -1], [-1, units, 1], [0, 0])
                return self.add("Reshape", [value, self.array(np.array(shape, np.int64))])
            case "Dropout":
                trained = self.array(np.array(self.one_of([False], True)))
                return self.add("Dropout", [value, *self.one_of([[], [""], ["", trained]])])
            case _:
                return self.add(operator, [value])

    def operand(self, value, units):
        """What a value is computed with."""
        way = self.rng.random()
        if way < 0.4:
            return value
        if way < 0.5:
            return self.add(self.one_of(BINARY), [self.numbers(), self.numbers(1)])
        return self.numbers(*self.one_of([(), (1,), (1, 1)], (1, 1, 1), (units,), (units, 1)))

    def above_half(self, value):
        """Where a logarithm, a root, a quotient and a power are defined, and not too steep."""
        return self.add("Add", [self.add("Abs", [value]), self.array(self.dtype(0.5))])

    def between(self, value, units):
        """Append operators of one element, or nearly."""
        start = value
        for _ in range(self.rng.integers(4)):
            way = self.rng.random()
            if way < 0.45:
                operator = self.one_of(UNARY)
                value = self.above_half(value) if operator in ("Log", "Sqrt") else value
                value = self.add(operator, [value], **self.one_of(ATTRIBUTES.get(operator, [{}])))
            elif way < 0.8:
                operator = self.one_of(BINARY)
                a, b = self.one_of([value, start]), self.operand(value, units)
                a = self.above_half(a) if operator == "Pow" else a
                b = self.above_half(b) if operator == "Div" else b
                more = self.one_of([[]], [start]) if operator in ("Max", "Min") else []
                value = self.add(operator, [a, b, *more])
            else:
                truths = [
                    self.add(self.one_of(COMPARISONS), [value, self.operand(start, units)]) for _ in range(2)
                ]
                truth = self.add(self.one_of(["And", "Or"]), truths)
                truth = self.one_of([truth, self.add("Not", [truth])])
                if self.rng.random() < 0.2:
                    value = self.add("Cast", [truth], to=self.kind)
                else:
                    value = self.add("Where", [truth, value, self.operand(start, units)])
        return value

    def model(self):
        """The model: input X (rows, n_in), which may be fixed, and the last value as its output."""
        sizes = self.rng.integers(1, 5, size=self.rng.integers(2, 5)).tolist()
        value = "X"
        for place, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            value = self.passed(value, n_in) if self.rng.random() < 0.3 else value
            value = self.layer(value, n_in, n_out)
            value = self.passed(value, n_out) if self.rng.random() < 0.3 else value
            value = self.between(value, n_out) if place < len(sizes) - 2 else value
        last = self.one_of([None, "Sigmoid", "Exp", *["Softmax"] * (sizes[-1] > 1)])
        value = value if last is None else self.add(last, [value])
        value = self.passed(value, sizes[-1]) if self.rng.random() < 0.2 else value
        ends = [
            helper.make_tensor_value_info("X", self.kind, [self.one_of(["rows"], sizes[0], 1), sizes[0]]),
            helper.make_tensor_value_info(value, self.kind, [None, None]),
        ]
        known = [numpy_helper.from_array(values, name) for name, values in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "drawn", ends[:1], ends[1:], known)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def damaged(rng, model):
    """The bytes of a model after one or two random changes of its fields, and now and then of its bytes."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    names = [*(name for node in graph.node for name in (*node.input, *node.output)), "X", "", "none"]
    names += [array.name for array in graph.initializer]

    def one_of(choices):
        return choices[rng.integers(len(choices))]

    def change_node(node):
        match one_of(["operator", "input", "more", "less", "output", "domain"]):
            case "operator":
                node.op_type = one_of([*UNARY, *BINARY, *COMPARISONS, *OTHERS])
            case "input" if node.input:
                node.input[rng.integers(len(node.input))] = one_of(names)
            case "more":
                node.input.append(one_of(names))
            case "less" if node.input:
                del node.input[-1]
            case "output":
                node.output[:] = [one_of(names) for _ in range(rng.integers(3))]
            case "domain":
                node.domain = one_of(["ai.onnx", "ai.onnx.ml", "own"])

    def change_attribute(node):
        name = one_of(["alpha", "axis", "perm", "to", "transA", "transB", "value", "approximate", "odd"])
        numbers = [0, 1, -1, 7, 11, 1 << 40, 0.5, np.nan, np.inf, "tanh", [0, 1], [0.5]]
        kept = [attribute for attribute in node.attribute if attribute.name != name and rng.random() < 0.8]
        kept += [helper.make_attribute(name, one_of(numbers))] if rng.random() < 0.7 else []
        node.ClearField("attribute")
        node.attribute.extend(kept)

    def change_array(array):
        match one_of(["type", "shape", "short", "nan", "name", "twice"]):
            case "type":
                array.data_type = int(rng.integers(-1, 30))
            case "shape":
                sizes = [-1, 0, 1, 2, 3, 4, 1 << 40]
                array.dims[:] = [one_of(sizes) for _ in range(rng.integers(4))]
            case "short":
                array.raw_data = array.raw_data[: rng.integers(len(array.raw_data) + 1)]
            case "nan":
                array.raw_data = b"\xff" * len(array.raw_data)
            case "name":
                array.name = one_of(names)
            case "twice":
                graph.initializer.append(array)

    def change_end(value):
        tensor = value.type.tensor_type
        match one_of(["name", "type", "axis", "rows", "twice", "untyped"]):
            case "name":
                value.name = one_of(names)
            case "type":
                tensor.elem_type = int(rng.integers(25))
            case "axis":
                tensor.shape.dim.add()
            case "rows" if tensor.shape.dim:
                tensor.shape.dim[0].dim_value = one_of([-1, 0, 1, 2, 3, 1 << 40])
            case "twice":
                graph.input.append(value)
            case "untyped":
                value.ClearField("type")

    def change_order(_):
        nodes = list(graph.node)
        place = rng.integers(max(1, len(nodes)))
        nodes = one_of([nodes[:place] + nodes[place + 1 :], [*nodes, *nodes[place : place + 1]], nodes[::-1]])
        graph.ClearField("node")
        graph.node.extend(nodes)

    def change_version(version):
        version.version = one_of([-1, 0, 1, 6, 7, 9, 12, 13, 26, 99])

    nodes, ends = graph.node, [*graph.input, *graph.output]
    ways = (
        [(change_node, nodes)] * 2 + [(change_attribute, nodes)] * 2 + [(change_array, graph.initializer)] * 2
    )
    ways += [(change_end, ends), (change_order, nodes), (change_version, model.opset_import)]
    for _ in range(rng.integers(1, 3)):
        change, choices = one_of(ways)
        if len(choices):
            change(one_of(choices))
    content = bytearray(model.SerializeToString())
    if rng.random() < 0.1:
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(content))] = rng.integers(256)
    return bytes(content)
