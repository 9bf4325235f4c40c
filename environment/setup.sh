#!/usr/bin/env bash
# Makes .venv at the root of this checkout hold exactly environment/requirements.lock and this project.
#
#   bash environment/setup.sh           set up; does nothing when nothing changed
#   bash environment/setup.sh --check   name the missing system packages, one a line; exit 2 if there are any
#
# PYTHON=/path/to/python3.12 takes another interpreter (CPython 3.11 or newer) than the one that .venv has, which is at
# first the python3.11 on PATH.
# Where packages come from is yours to configure: pip.conf and PIP_* steer the one step that pip does (fetching uv);
# uv reads neither, so an index, proxy or cache for all the rest goes into UV_* variables (UV_DEFAULT_INDEX, UV_INDEX,
# UV_CACHE_DIR, ...) or a uv.toml. Hashes are checked whatever the index.
#
# TORCH_INDEX=URL is for a machine without a GPU: torch and torchvision come from that index, in the locked versions, and
# nothing of CUDA is installed. It is an index of builds for CPUs, such as PyTorch's own, whose address pytorch.org gives,
# or a folder laid out as one. The hashes of these two are not checked: the lock file has those of other builds.
# .venv remembers the index; TORCH_INDEX= makes it again with CUDA.
set -euo pipefail

# What a caller's shell may hold that would send an install elsewhere or make another Python's modules visible.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX CDPATH
unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_NO_DEPS PIP_REQUIRE_VIRTUALENV PIP_PYTHON PIP_CONSTRAINT PIP_REQUIREMENT
unset UV_PYTHON UV_SYSTEM_PYTHON UV_CONSTRAINT UV_OVERRIDE UV_BUILD_CONSTRAINT UV_NO_BUILD_ISOLATION UV_TORCH_BACKEND

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname "$here")
venv=$root/.venv
stamp=$venv/.set-up
inputs=("$here/setup.sh" "$here/requirements.lock" "$here/tools.lock" "$root/pyproject.toml"
        "$here/ffcv/opencv4.pc" "$here/ffcv/opencv2/opencv.hpp")

step=reading-inputs
say() { printf 'set-up: %s\n' "$*"; }
fail() { # what, how to mend it
  printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
  trap 'rm -rf "${plain:-}"' EXIT
  exit 2
}
ended() {
  local code=$?
  rm -rf "${plain:-}"
  [ $code = 0 ] || printf 'error: set-up stopped while %s (exit code %s)\n  fix: see the message above, then run again: bash environment/setup.sh\n' "$step" $code >&2
}
trap ended EXIT

# Ending through EXIT, so that an interruption is explained too.
trap 'exit 130' INT
trap 'exit 143' TERM

find_python() {
  local asked=${PYTHON:-}
  # Two callers with different PATHs must not rebuild the environment in turn.
  if [ -z "$asked" ]; then
    if "$venv/bin/python" -c '' 2>/dev/null; then asked=$venv/bin/python; else asked=python3.11; fi
  fi
  # Behind a shim, a link or an activated environment stands one interpreter; the environment is tied to that one.
  python=$("$asked" -c 'import os, sys; print(os.path.realpath(sys.executable))' 2>/dev/null) ||
    fail "no working $asked" \
      "install Python 3.11 (Debian 12: apt-get install python3.11 python3.11-venv python3.11-dev), or name another CPython of 3.11 or newer: PYTHON=/path/to/python3 bash environment/setup.sh"
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) else "old")')
  [ "$version" != old ] || fail "$python is older than Python 3.11" "name a newer one: PYTHON=/path/to/python3.11 bash environment/setup.sh"
}

links() { # does a program that uses this header link with these flags?
  local header=$1
  shift
  printf '#include <%s>\nint main() { return 0; }\n' "$header" | g++ -x c++ -fsyntax-only "$@" - 2>/dev/null &&
    printf 'int main() { return 0; }\n' | g++ -x c++ -o /dev/null - "$@" 2>/dev/null
}

# Asks what works, not what dpkg lists: a compiler or a Python from elsewhere is as good.
missing_packages() {
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
  [ "$(uname -s)" = Linux ] || return 0 # the rest is for FFCV, which exists on Linux only
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    echo "python$version-dev"
  command -v pkg-config >/dev/null || echo pkg-config
  if ! command -v g++ >/dev/null; then
    # Without a compiler the libraries cannot be tried; asking for one that is there costs nothing.
    printf '%s\n' g++ libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev
    return 0
  fi
  links opencv2/core.hpp -I/usr/include/opencv4 -I/usr/local/include/opencv4 -lopencv_core || echo libopencv-core-dev
  links opencv2/imgproc.hpp -I/usr/include/opencv4 -I/usr/local/include/opencv4 -lopencv_imgproc || echo libopencv-imgproc-dev
  links turbojpeg.h -lturbojpeg || echo libturbojpeg0-dev
}

install_packages() {
  step="looking for system packages"
  local missing as_root=()
  missing=$(missing_packages | tr '\n' ' ')
  missing=${missing% }
  [ -n "$missing" ] || return 0
  # Debian's venv and dev packages serve Debian's interpreter only.
  if [[ $missing == *python$version-* && $python != /usr/bin/* ]]; then
    fail "$python lacks the venv module or the headers that building FFCV needs" "name a complete interpreter: PYTHON=/path/to/python3.11 bash environment/setup.sh"
  fi
  command -v apt-get >/dev/null || fail "missing system packages, by their names on Debian: $missing" \
    "install what your system calls them: a C++ compiler, pkg-config, and the headers of OpenCV 4 (core, imgproc), of TurboJPEG and of Python $version"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "missing system packages: $missing" "sudo apt-get update && sudo apt-get install --no-install-recommends $missing"
    as_root=(sudo -n)
  fi
  step="installing system packages"
  say "installing system packages: $missing"
  local options=(-q -o DPkg::Lock::Timeout=120)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update </dev/null
  # shellcheck disable=SC2086  # a list of words
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends $missing </dev/null
  missing=$(missing_packages | tr '\n' ' ')
  [ -z "$missing" ] || fail "these packages are installed and what they bring is still not usable: $missing" "try the compiler: g++ -v; pkg-config --version"
}

# Line 1 of the stamp: what the environment itself hangs on (absolute paths are written all over it, so a moved
# checkout shows here). Line 2: what was installed into it.
wanted_stamp() {
  printf '%s %s\n' "$python" "$root${torch_index:+ $torch_index}"
  "$python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(p, "rb").read() for p in sys.argv[1:])).hexdigest())' "${inputs[@]}"
}

is_done() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null && [ -x "$venv/bin/wrn-pipe" ]; }

find_python
if [ "${1:-}" = --check ]; then
  missing=$(missing_packages)
  [ -z "$missing" ] || { printf '%s\n' "$missing"; trap - EXIT; exit 2; }
  exit 0
fi
[ $# = 0 ] || fail "unknown argument: $1" "bash environment/setup.sh [--check]"
torch_index=${TORCH_INDEX-$(cat "$venv/.torch-index" 2>/dev/null || true)}
wanted=$(wanted_stamp)
if is_done; then
  say "nothing to do"
  exit 0
fi
[ -f "$stamp" ] || [ ! -e "$venv" ] ||
  fail "$venv is there and was not made by this script" "move or delete it, then run again: mv '$venv' '$venv-mine'"

# Two set-ups of one checkout take turns. The lock is this file itself and ends with the process.
if command -v flock >/dev/null; then
  exec 9<"${BASH_SOURCE[0]}"
  flock -n 9 || { say "waiting for another set-up of this checkout"; flock 9; }
  if is_done; then
    say "done by the other set-up"
    exit 0
  fi
fi

install_packages

# Only an environment that was finished once is built upon; one left by an interruption may hold half a package.
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$(head -n 1 <<<"$wanted")" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  say "updating $venv"
  echo unfinished >"$stamp"
else
  step="making the virtual environment"
  say "making $venv with $python"
  mkdir -p "$venv"
  echo unfinished >"$stamp"
  find "$venv" -mindepth 1 ! -path "$stamp" -delete
  [ -z "$torch_index" ] || printf '%s\n' "$torch_index" >"$venv/.torch-index"
  "$python" -m venv "$venv" 9<&-
fi

step="fetching uv, the installer"
say "fetching uv"
"$venv/bin/python" -m pip install -q --no-input --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
  -r "$here/tools.lock" </dev/null 9<&-

step="installing environment/requirements.lock"
# FFCV's build splits pkg-config's answer at blanks, quotes and other letters: what it is to find lies in a plain folder.
plain=$(mktemp -d /tmp/wrn-pipe-set-up.XXXXXX)
cp -R "$here/ffcv/." "$plain"
lock=$here/requirements.lock
# Sizes are sums over the lock's wheels for x86_64, rounded up.
size="up to 0.8 GB to download, 3 GB in .venv"
if [ -n "$torch_index" ]; then
  lock=$plain/requirements.lock
  awk '/^[^ ]/ { left_out = /^(torch|torchvision|triton)==|^(nvidia|cuda)-/ } !left_out' "$here/requirements.lock" >"$lock"
elif [ "$(uname -s)" = Linux ]; then
  size="up to 3.5 GB to download, 7 GB in .venv, mostly CUDA; for less on a machine without a GPU see TORCH_INDEX in environment/setup.sh"
fi
say "installing $(grep -c '^[a-z0-9]' "$lock") pinned packages and building FFCV ($size)"
export PKG_CONFIG_PATH=$plain${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
cd "$root"
# A terminal sees uv's bars; a log is spared 200 lines.
quiet=()
[ -t 2 ] || quiet=(--quiet)
# Compiled to bytecode now, or else every process pays seconds for importing where Python is told to write none.
# Refreshed, because an FFCV in uv's cache may have been built against an OpenCV that this system no longer has.
"$venv/bin/uv" pip sync ${quiet[@]+"${quiet[@]}"} --python "$venv/bin/python" --require-hashes --compile-bytecode --build-constraint "$here/tools.lock" \
  --refresh-package ffcv "$lock" </dev/null 9<&-

if [ -n "$torch_index" ]; then
  step="installing torch from $torch_index"
  say "installing torch and torchvision from $torch_index, their hashes not checked"
  # Named twice: as the first index before those of the caller's configuration, and in place of the default one.
  # shellcheck disable=SC2046  # two words
  "$venv/bin/uv" pip install ${quiet[@]+"${quiet[@]}"} --python "$venv/bin/python" --compile-bytecode --no-deps \
    --index "$torch_index" --default-index "$torch_index" \
    $(grep -oE '^(torch|torchvision)==[^ ]+' "$here/requirements.lock") </dev/null 9<&-
  "$venv/bin/python" -c 'import torch' || fail "the torch of $torch_index does not load" "name an index of builds for CPUs, which need no CUDA: TORCH_INDEX=URL bash environment/setup.sh"
fi

if [ "$(uname -s)" = Linux ]; then
  step="loading FFCV's compiled part"
  "$venv/bin/python" - <<'PYTHON'
import ctypes, glob, sysconfig
(library,) = glob.glob(sysconfig.get_path("platlib") + "/ffcv/_libffcv*.so")
ctypes.CDLL(library)
PYTHON
fi

step="installing the project itself"
say "installing wrn-pipe from this checkout"
# compat: one .pth line naming the root, which type checkers and new modules follow without another set-up.
"$venv/bin/uv" pip install -q --python "$venv/bin/python" --no-deps --build-constraint "$here/tools.lock" \
  --config-settings editable_mode=compat -e "$root" </dev/null 9<&-

printf '%s\n' "$wanted" >"$stamp"
say "done: $venv/bin/wrn-pipe; it is on your PATH after: source .venv/bin/activate"
