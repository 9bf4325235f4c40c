"""The product. To import any of it keeps out what a caller's environment should not decide."""

import os
import pwd

# pydantic would look for plugins in every package there is: a fiftieth of the time of a repro with nothing to do.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Set in a git hook, for its own repository: git would answer for that one, wherever it is asked.
for name in ("DIR", "WORK_TREE", "INDEX_FILE", "COMMON_DIR", "OBJECT_DIRECTORY", "PREFIX", "NAMESPACE"):
    os.environ.pop(f"GIT_{name}", None)
try:
    pwd.getpwuid(os.getuid())
except KeyError:  # a container's user who is a number: Python, torch and DVC would ask for its name and home and fail
    os.environ.setdefault("USER", f"uid-{os.getuid()}")
    os.environ.setdefault("HOME", "/")
