# The appliance's kernel: small, without modules, from the same options as `lab image kernel` takes.
#
# 6.1 is the series on which kernel.fragment is tried without Nix, too: Debian's linux-source-6.1.
{ pkgs }:
let
  inherit (pkgs.linuxKernel.kernels.linux_6_1) src version;

  # manualConfig wants every option. The rest is off, as the fragment's head says; an option that is not there
  # afterwards has a dependency that nobody asked for, and would be missed only when a machine boots.
  configuration = pkgs.stdenv.mkDerivation {
    name = "aspen-kernel-configuration-${version}";
    inherit src;
    nativeBuildInputs = [
      pkgs.bison
      pkgs.flex
    ];
    postPatch = "patchShebangs scripts";
    buildPhase = ''
      make ARCH=x86_64 KCONFIG_ALLCONFIG=${./kernel.fragment} allnoconfig
      lost=0
      while read -r line; do
        case $line in
          CONFIG_*=n) ! grep -q "^''${line%n}" .config || { echo "is on: $line"; lost=1; } ;;
          CONFIG_*) grep -qxF "$line" .config || { echo "is lost: $line"; lost=1; } ;;
        esac
      done < ${./kernel.fragment}
      [ "$lost" = 0 ]
    '';
    installPhase = "cp .config $out";
  };
in
pkgs.linuxKernel.manualConfig {
  inherit src version;
  pname = "aspen-kernel";
  # CONFIG_LOCALVERSION of the fragment.
  modDirVersion = "${version}-aspen";
  configfile = configuration;
}
