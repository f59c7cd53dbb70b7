"""MindSpore Lite models, in this process or, run as a script, for a parent process of another Python version.

This file must stay Python 3.7, and needs nothing but numpy and mindspore_lite. A message on the socket is two u32 (size
of a JSON header, number of file descriptors), the header, and the raw bytes of the arrays that it lists.
"""
# Python 3.7 knows neither zip(strict=) nor much of what ruff would modernise:
# ruff: noqa: UP006, UP031, UP035, B905

import json
import mmap
import os
import socket
import struct
import sys
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

_HEAD = struct.Struct("<II")
_MOST_DESCRIPTORS = 4
_PIECE = 1 << 20  # bytes per write

Header = Dict[str, Any]
Reply = Tuple[Header, Sequence[np.ndarray]]


# --- messages ---------------------------------------------------------------------------------------------------


def send(
    channel: socket.socket, header: Header, arrays: Sequence[np.ndarray] = (), descriptors: Sequence[int] = ()
) -> None:
    """Writes one message."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    header = dict(header, arrays=[[array.dtype.str, array.shape] for array in arrays])
    text = json.dumps(header).encode()
    first = _HEAD.pack(len(text), len(descriptors)) + text
    more = []
    if descriptors:
        more = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("%di" % len(descriptors), *descriptors))]
    sent = channel.sendmsg([first], more)
    channel.sendall(first[sent:])
    for array in arrays:
        channel.sendall(array.reshape(-1).view(np.uint8).data)


def receive(channel: socket.socket) -> Tuple[Header, List[np.ndarray], List[int]]:
    """The next message: header, arrays, file descriptors. Raises EOFError when the other side has gone."""
    space = socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
    first, more, _, _ = channel.recvmsg(_HEAD.size, space)
    if not first:
        raise EOFError
    first += _read(channel, _HEAD.size - len(first))
    size, count = _HEAD.unpack(first)
    descriptors = []  # type: List[int]
    for level, kind, data in more:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += struct.unpack("%di" % (len(data) // 4), data[: len(data) // 4 * 4])
    header = json.loads(_read(channel, size).decode())
    arrays = []
    for dtype, shape in header.pop("arrays"):
        array = np.empty(shape, dtype)
        _read_into(channel, array.reshape(-1).view(np.uint8).data)
        arrays.append(array)
    return header, arrays, descriptors[:count]


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    _read_into(channel, memoryview(data))
    return bytes(data)


def _read_into(channel: socket.socket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = channel.recv_into(view[done : done + _PIECE])
        if not count:
            raise EOFError
        done += count


# --- Lite -------------------------------------------------------------------------------------------------------


class LiteModel:
    """A model file loaded by MindSpore Lite.

    `settings`: `target` ("cpu" or "ascend"), `config_path` (a file for Lite itself, or ""), and `context`, whose items
    are properties of Lite's context of that target: thread_num, device_id, provider, ...
    """

    def __init__(self, path: str, settings: Mapping[str, Any]) -> None:
        import mindspore_lite as lite

        context = lite.Context()
        context.target = [settings["target"]]
        device = getattr(context, settings["target"])
        for name, value in settings["context"].items():
            if hasattr(device, name):
                setattr(device, name, value)
            elif name != "provider":  # which Lite 2.0 takes from its file alone
                raise ValueError("this Lite has no %s in its %s context" % (name, settings["target"]))
        kind = lite.ModelType.MINDIR_LITE if path.endswith(".ms") else lite.ModelType.MINDIR
        path, here = os.path.abspath(path), os.getcwd()
        os.chdir(os.path.dirname(path))  # a .ms above 2 GB looks for its weights in the current folder
        try:
            self.model = lite.Model()
            self.model.build_from_file(path, kind, context, settings["config_path"])
        finally:
            os.chdir(here)
        self.names = [tensor.name for tensor in self.model.get_inputs()]
        self.held = {}  # type: Mapping[str, np.ndarray]

    def inputs(self) -> List[List[Any]]:
        """Name, shape and type of every input; -1 is a dimension that may be anything."""
        return [[i.name, list(i.shape), str(i.dtype).split(".")[-1].split(":")[0]] for i in self.model.get_inputs()]

    def run(self, feed: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """The outputs for arrays by name. They are views that the next call overwrites."""
        tensors = self.model.get_inputs()
        shapes = [list(feed[name].shape) for name in self.names]
        if [list(tensor.shape) for tensor in tensors] != shapes:
            self.model.resize(tensors, shapes)
            tensors = self.model.get_inputs()
        for name, tensor in zip(self.names, tensors):
            tensor.set_data_from_numpy(feed[name])
        self.held = feed  # views as well: they must outlive predict
        return [tensor.get_data_to_numpy() for tensor in self.model.predict(tensors)]


def convert(source: str, target: str, options: Mapping[str, Any]) -> None:
    """Writes `<target>.ms`, or `<target>.mindir`, with Lite's Converter.

    `options`: `kind` ("ms" or "mindir"), `optimize`, `weight_fp16`, `config_file`.
    """
    import mindspore_lite as lite

    converter = lite.Converter()
    converter.input_format = lite.Format.NCHW
    converter.save_type = lite.ModelType.MINDIR_LITE if options["kind"] == "ms" else lite.ModelType.MINDIR
    converter.weight_fp16 = options["weight_fp16"]
    if options["optimize"]:
        converter.optimize = options["optimize"]
    converter.convert(lite.FmkType.MINDIR, source, target, "", options["config_file"])


def about() -> Header:
    """Versions of what runs here."""
    import mindspore_lite as lite

    return {"lite": getattr(lite, "__version__", "unknown"), "python": sys.version.split()[0], "pid": os.getpid()}


# --- the process ------------------------------------------------------------------------------------------------


class Server:
    """Answers the parent's requests one by one."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.models = {}  # type: Dict[str, LiteModel]
        self.shared = {}  # type: Dict[int, np.ndarray]  # in memory shared with the parent

    def serve(self) -> None:
        """Until the parent closes the socket."""
        while True:
            try:
                header, arrays, descriptors = receive(self.channel)
            except (EOFError, ConnectionError):
                return
            try:
                reply, results = getattr(self, "do_" + header.pop("do"))(header, arrays, descriptors)
            except Exception as error:
                reply, results = {"error": "%s: %s" % (type(error).__name__, error)}, ()
            send(self.channel, reply, results)

    def do_about(self, header: Header, arrays: List[np.ndarray], descriptors: List[int]) -> Reply:
        """Versions."""
        return about(), ()

    def do_load(self, header: Header, arrays: List[np.ndarray], descriptors: List[int]) -> Reply:
        """Loads a model file under a name."""
        model = self.models[header["model"]] = LiteModel(header["path"], header["settings"])
        return {"inputs": model.inputs()}, ()

    def do_convert(self, header: Header, arrays: List[np.ndarray], descriptors: List[int]) -> Reply:
        """Runs the Converter."""
        convert(header["source"], header["target"], header["options"])
        return {}, ()

    def do_echo(self, header: Header, arrays: List[np.ndarray], descriptors: List[int]) -> Reply:
        """Sends the arrays back: for measuring the way."""
        return {}, arrays

    def do_run(self, header: Header, arrays: List[np.ndarray], descriptors: List[int]) -> Reply:
        """Outputs of a model, for inputs in the message or in shared memory."""
        for number in header["forget"]:
            del self.shared[number]
        for (number, dtype, shape), descriptor in zip(header["share"], descriptors):
            memory = mmap.mmap(descriptor, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            os.close(descriptor)
            self.shared[number] = np.frombuffer(memory, dtype).reshape(shape)
        feed = dict(zip(header["names"], arrays))
        feed.update((name, self.shared[number]) for name, number in header["places"].items())
        return {}, self.models[header["model"]].run(feed)


def die_with(descriptor: int) -> None:
    """Lets the kernel end this process when the pipe's other end closes, even while Lite computes or hangs."""
    import fcntl

    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)  # the default action of SIGIO is to terminate
    try:
        if os.read(descriptor, 1) == b"":  # closed before the kernel knew whom to tell
            os._exit(0)
    except BlockingIOError:
        pass


def main() -> None:
    """worker.py SOCKET PIPE: numbers of two inherited file descriptors."""
    channel, life = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    os.dup2(2, 1)  # Lite prints on standard output
    die_with(life)
    Server(channel).serve()
    os._exit(0)  # Lite's own clean-up is not needed, and has hung


if __name__ == "__main__":
    main()
