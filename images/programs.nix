# The programs, built by cargo through crane, and what else cargo checks.
#
# They are linked statically with glibc, not with musl: that is how cargo builds them without Nix (the alias of
# `cargo lab`), so both ways run the same code. It also needs no second toolchain, and musl's allocator is slow where
# many threads allocate.
{ pkgs, crane }:
let
  inherit (pkgs) lib;
  craneLib = crane.mkLib pkgs;

  common = {
    pname = "aspen";
    inherit ((builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package) version;
    src = import ./source.nix { inherit lib; };
    strictDeps = true;
  };

  # The programs.
  static = common // {
    # An explicit target, so that the flag does not reach build scripts and procedural macros: those have to be dynamic.
    CARGO_BUILD_TARGET = "x86_64-unknown-linux-gnu";
    RUSTFLAGS = "-C target-feature=+crt-static";
    # libc.a
    buildInputs = [ pkgs.glibc.static ];
  };

  programs = craneLib.buildPackage (
    static
    // {
      cargoArtifacts = craneLib.buildDepsOnly (static // { cargoExtraArgs = "--locked --workspace"; });
      cargoExtraArgs = "--locked -p aspen-lab -p aspen-node -p aspen-init --bins";
      # They are a check of their own.
      doCheck = false;
    }
  );

  program =
    name:
    pkgs.runCommand "${name}-${common.version}" { meta.mainProgram = name; } ''
      install -D -m 755 ${programs}/bin/${name} $out/bin/${name}
    '';

  # Checks are made of programs as cargo builds them without further ado, which are dynamic: one test wants such a one. They
  # read the whole repository: documents, scenarios, the tree itself.
  whole = common // {
    src = ../.;
    # Every dependency, tests' too: built once for all checks.
    cargoArtifacts = craneLib.buildDepsOnly (common // { cargoExtraArgs = "--locked --workspace"; });
  };
in
{
  inherit programs;
  aspen-node = program "aspen-node";
  lab = program "lab";

  checks = {
    clippy = craneLib.cargoClippy (
      whole
      // {
        cargoExtraArgs = "--locked --workspace";
        cargoClippyExtraArgs = "--all-targets -- -D warnings";
      }
    );
    fmt = craneLib.cargoFmt {
      inherit (common) pname version;
      src = ../.;
    };
    # The end-to-end tests need namespaces and /dev/net/tun, which a build does not have; the check `cluster` runs a
    # cluster in a machine of its own.
    tests = craneLib.cargoNextest (
      whole
      // {
        cargoExtraArgs = "--locked --workspace";
        cargoNextestExtraArgs = "-E 'not binary(it) or test(/^tidy::/)'";
        nativeBuildInputs = [ pkgs.e2fsprogs ];
        # A build has /bin/sh and no other program where every Linux has it.
        postPatch = ''
          programs=$(dirname "$(command -v env)")
          grep -rlE '/bin/(cat|env|sleep)\>' lab/src node/src images/init/src |
            xargs sed -i -E "s,(/usr)?/bin/(cat|env|sleep)\>,$programs/\2,g"
        '';
      }
    );
  };

  shell = craneLib.devShell {
    packages = [
      pkgs.cargo-nextest
      pkgs.cloud-hypervisor
      pkgs.e2fsprogs
      pkgs.etcd
      pkgs.iproute2
      pkgs.nftables
      pkgs.qemu
    ];
    # `cargo lab` links statically here, too.
    buildInputs = [ pkgs.glibc.static ];
  };
}
