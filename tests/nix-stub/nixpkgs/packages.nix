# The package set: packages that are only names, and functions of nixpkgs that build with the host's own tools.
#
# Functions take exactly the arguments that nixpkgs' take: one that nixpkgs would not know fails here, and does not
# turn into an environment variable that nobody reads.
{ lib }:
let
  system = "x86_64-linux";

  # What a build can use that Nix cannot make without a network; empty while things are only evaluated, since
  # evaluation is pure then.
  prebuiltFolder = builtins.getEnv "ASPEN_NIX_PREBUILT";
  prebuilt =
    path:
    if prebuiltFolder == "" then
      null
    else
      builtins.path {
        path = /. + "${prebuiltFolder}/${path}";
        name = baseNameOf path;
      };

  # Fails with the names that are not among those known.
  known =
    what: names: arguments:
    let
      unknown = builtins.filter (name: !builtins.elem name names) (builtins.attrNames arguments);
    in
    if unknown == [ ] then
      arguments
    else
      throw "${what} of the stub does not know ${toString unknown}: look it up in nixpkgs, then list it in tests/nix-stub";

  # A derivation with the attributes that a user of nixpkgs sees.
  package =
    {
      name,
      script,
      environment ? { },
      outputs ? [ "out" ],
      attributes ? { },
    }:
    derivation (
      environment
      // {
        inherit name system outputs;
        builder = "/bin/bash";
        args = [
          "-euo"
          "pipefail"
          "-c"
          ''
            export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=$NIX_BUILD_TOP
            # As the standard environment of nixpkgs sets it.
            export SOURCE_DATE_EPOCH=315532800
            ${script}
          ''
        ];
      }
    )
    // attributes;

  # A package that is only a name: what uses it in a build finds the host's own program instead.
  named =
    name:
    {
      file,
      outputs ? [ ],
    }:
    package {
      inherit name;
      outputs = [ "out" ] ++ outputs;
      script = "for output in $outputs; do mkdir \${!output}; done";
      attributes.file = file;
    };

  # A package whose files come from the prebuilt folder.
  fromPrebuilt =
    {
      name,
      version,
      files,
    }:
    package {
      inherit name;
      script =
        if prebuiltFolder == "" then
          "echo '${name} is not built by the stub: see tests/nix-stub/README.md' >&2; exit 1"
        else
          toString (
            map (target: ''
              install -D -m 755 ${prebuilt files.${target}} $out/${target}
            '') (builtins.attrNames files)
          );
      attributes = { inherit version; };
    };

  # The options of NixOS that a test's machine sets, by their paths.
  # nixos/modules/virtualisation/qemu-vm.nix, nixos/modules/config/system-path.nix
  machine = module: {
    virtualisation = known "virtualisation" [
      "cores"
      "memorySize"
    ] (module.virtualisation or { });
    environment = known "environment" [ "systemPackages" ] (module.environment or { });
    all = known "a machine" [
      "environment"
      "virtualisation"
    ] module;
  };
in
builtins.mapAttrs named (import ./attributes.nix)
// {
  inherit lib system;

  # For the stub of crane.
  aspenStub = { inherit known package fromPrebuilt; };

  # pkgs/stdenv/generic/make-derivation.nix
  stdenv.mkDerivation =
    arguments:
    let
      checked = known "mkDerivation" [
        "buildPhase"
        "installPhase"
        "name"
        "nativeBuildInputs"
        "postPatch"
        "src"
      ] arguments;
    in
    package {
      inherit (checked) name;
      environment = {
        inherit (checked) src nativeBuildInputs;
      };
      script = ''
        cp -r $src source
        chmod -R u+w source
        cd source
        patchShebangs() { :; }
        ${checked.postPatch}
        ${checked.buildPhase}
        ${checked.installPhase}
      '';
    };

  # pkgs/build-support/trivial-builders/default.nix
  runCommand =
    name: environment: script:
    package {
      inherit name script;
      environment = removeAttrs environment [ "meta" ];
      attributes.meta = known "meta" [ "mainProgram" ] (environment.meta or { });
    };

  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
    }:
    package {
      inherit name;
      environment = { inherit text runtimeInputs; };
      script = ''
        mkdir -p $out/bin
        {
          printf '#!/bin/bash\nset -o errexit -o nounset -o pipefail\n'
          for input in $runtimeInputs; do printf 'PATH="%s/bin:$PATH"\n' "$input"; done
          printf '%s\n' "$text"
        } > $out/bin/$name
        chmod +x $out/bin/$name
        bash -n $out/bin/$name
      '';
    };

  # pkgs/build-support/mkshell/default.nix
  mkShell =
    arguments:
    let
      checked = known "mkShell" [
        "buildInputs"
        "inputsFrom"
        "packages"
      ] arguments;
    in
    package {
      name = "nix-shell";
      environment = checked;
      script = "echo $packages $buildInputs > $out";
    };

  # pkgs/os-specific/linux/systemd/default.nix, nixos/modules/system/boot/uki.nix
  systemd = fromPrebuilt {
    name = "systemd";
    version = "260";
    files."lib/systemd/boot/efi/linuxx64.efi.stub" = "efi/linuxx64.efi.stub";
  };

  # pkgs/top-level/linux-kernels.nix
  linuxKernel = {
    # pkgs/os-specific/linux/kernel/mainline.nix, pkgs/os-specific/linux/kernel/kernels-org.json
    kernels.linux_6_1 =
      package {
        name = "linux";
        script = "mkdir $out";
      }
      // {
        version = "6.1.159";
        src = package {
          name = "linux-source";
          script = "echo 'the stub has no source of a kernel' >&2; exit 1";
        };
      };

    # pkgs/os-specific/linux/kernel/build.nix
    manualConfig =
      {
        version,
        src,
        configfile,
        pname ? "linux",
        modDirVersion ? version,
      }:
      # Evaluated like a real one, and taken as it is.
      builtins.seq src.drvPath (
        builtins.seq configfile.drvPath (fromPrebuilt {
          name = "${pname}-${modDirVersion}";
          inherit version;
          files.bzImage = "kernel/bzImage";
        })
      );
  };

  # pkgs/build-support/testers/default.nix
  testers.runNixOSTest =
    {
      name,
      nodes,
      testScript,
    }:
    package {
      name = "vm-test-run-${name}";
      environment = {
        inherit testScript;
        machines = builtins.toJSON (builtins.mapAttrs (_: machine) nodes);
      };
      script = "echo 'the stub boots no NixOS' >&2; exit 1";
    };
}
