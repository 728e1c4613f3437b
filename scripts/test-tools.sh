#!/usr/bin/env bash
# Installs what the tests use besides Rust. Each part is skipped with a reason where it cannot be had: the tests that need it then
# say so and are skipped too. Nothing is started, and nothing outside .tools and the system's package manager is touched.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools

# The unmodified Python SDK of VMware and its client for SOAP, from PyPI.
if [ ! -e .tools/sdk/ready ]; then
  if command -v python3 >/dev/null && python3 -m venv .tools/sdk && .tools/sdk/bin/pip install -q vmware-vcenter==8.0.3.0; then
    touch .tools/sdk/ready
  else
    echo "test-tools: no Python SDK: the tests that use it will be skipped" >&2
  fi
fi
if [ -e .tools/sdk/ready ] && ! .tools/sdk/bin/python -c 'import pyVmomi' 2>/dev/null; then
  .tools/sdk/bin/pip install -q pyvmomi==8.0.3.0.1 ||
    echo "test-tools: no pyVmomi: the test that uses it will be skipped" >&2
fi

# A server that speaks S3, from PyPI.
if [ ! -x .tools/moto/bin/moto_server ]; then
  if ! command -v python3 >/dev/null || ! python3 -m venv .tools/moto || ! .tools/moto/bin/pip install -q 'moto[server]==5.2.5'; then
    echo "test-tools: no moto: the tests with an object store will be skipped" >&2
  fi
fi

# QEMU with its programs for images and its firmware, for the virtual machines that are collected and replicated in tests, and an
# assembler for the guest of those. All of QEMU must come from the release of what is installed of it, or apt would
# remove that.
if ! { command -v qemu-system-x86_64 && command -v qemu-img && command -v qemu-nbd && command -v qemu-io && command -v as &&
  command -v ld; } >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test-tools: not all of QEMU, and no right to install it: its tests will be skipped" >&2
  else
    export DEBIAN_FRONTEND=noninteractive
    apt="apt-get -o DPkg::Lock::Timeout=300"
    $apt update -qq || true
    release=""
    case "$(dpkg-query -W -f '${Version} ' qemu-utils qemu-system-x86 2>/dev/null || true)" in *bpo12*) release=bookworm-backports ;; esac
    if [ -n "$release" ]; then
      lists=$(mktemp -d)
      trap 'rm -rf "$lists"' EXIT
      chmod 755 "$lists"
      mkdir -p "$lists/parts" "$lists/lists/partial"
      cp /etc/apt/sources.list.d/* "$lists/parts/" 2>/dev/null || true
      key=$(dpkg -L debian-archive-keyring | grep -m1 'keyrings/debian-archive-keyring\.')
      uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' | awk '$2=="bookworm"{print $1; exit}')
      echo "deb [signed-by=$key] $uri $release main" >"$lists/parts/backports.list"
      apt="$apt -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$lists/parts -o Dir::State::lists=$lists/lists"
      $apt update -qq || true
    fi
    $apt install -y -qq --no-install-recommends ${release:+-t "$release"} \
      qemu-system-x86 qemu-utils seabios binutils >/dev/null ||
      echo "test-tools: QEMU cannot be installed: its tests will be skipped" >&2
  fi
fi

# Packages of servers. Where services run they would start one each, on the ports that a server of the host's own may need: a policy keeps
# them from it, and they stay disabled.
install_without_starting() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test-tools: no $*, and no right to install it: its tests will be skipped" >&2
    return
  fi
  (
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    apt-get -o DPkg::Lock::Timeout=300 update -qq || true
    for package in "$@"; do
      if apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$package" >/dev/null; then
        if command -v systemctl >/dev/null; then
          systemctl disable -q --now "$package.service" 2>/dev/null || true
        fi
      else
        echo "test-tools: $package cannot be installed: its tests will be skipped" >&2
      fi
    done
  )
}

# VictoriaMetrics and Prometheus, which the points of stats are sent to and read from.
missing=""
command -v victoria-metrics >/dev/null || missing="$missing victoria-metrics"
command -v prometheus >/dev/null || missing="$missing prometheus"
# The words are names of packages.
# shellcheck disable=SC2086
[ -z "$missing" ] || install_without_starting $missing

# libvirtd with its test driver. It is not started as a service.
if ! command -v libvirtd >/dev/null || ! command -v virsh >/dev/null; then
  install_without_starting libvirt-daemon libvirt-clients
fi

# vCenter's simulator and the client `govc`, for the collector of vCenters. Debian packages neither program, but their source and the
# library: both are built from the source package, about a minute and a half, and only what was built is kept.
if [ ! -x .tools/vcsim/bin/vcsim ] || [ ! -x .tools/vcsim/bin/govc ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test-tools: no vcsim, and no right to install what builds it: its tests will be skipped" >&2
  else
    (
      set -e
      export DEBIAN_FRONTEND=noninteractive
      work=$(mktemp -d)
      trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
      chmod 755 "$work"
      apt-get -o DPkg::Lock::Timeout=300 update -qq || true
      apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
        golang-go golang-github-vmware-govmomi-dev golang-github-kr-pretty-dev dpkg-dev >/dev/null
      mkdir -p "$work/lists/partial" "$work/cache/archives/partial" .tools/vcsim/bin
      key=$(dpkg -L debian-archive-keyring | grep -m1 'keyrings/debian-archive-keyring\.')
      . /etc/os-release
      apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' |
        awk -v release="$VERSION_CODENAME" '$2 == release' | sort -u | head -1 |
        while read -r uri release; do echo "deb-src [signed-by=$key] $uri $release main"; done >"$work/sources.list"
      apt="apt-get -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache"
      $apt update -qq
      (cd "$work" && $apt source -qq --download-only golang-github-vmware-govmomi && dpkg-source -x --no-check golang-github-vmware-govmomi_*.dsc src >/dev/null)
      mkdir -p "$work/go/src/github.com/vmware"
      mv "$work/src" "$work/go/src/github.com/vmware/govmomi"
      export GO111MODULE=off GOFLAGS= GOCACHE="$work/gocache"
      GOPATH="$work/go:$(dpkg -L golang-github-vmware-govmomi-dev | grep -m1 '/gocode$')"
      export GOPATH
      for program in vcsim govc; do
        go build -o "$work/$program" "github.com/vmware/govmomi/$program"
        mv "$work/$program" ".tools/vcsim/bin/$program"
      done
    ) || echo "test-tools: vcsim cannot be built: its tests will be skipped" >&2
  fi
fi
