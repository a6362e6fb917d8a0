# The appliance's kernel: small, without modules, from the same options as `lab image kernel` takes.
#
# 6.1 is the series on which kernel.fragment is tried without Nix, too: Debian's linux-source-6.1.
{ pkgs, programs }:
let
  inherit (pkgs.linuxKernel.kernels.linux_6_1) src version;

  # manualConfig wants every option. The rest is off, as the fragment's head says.
  configuration = pkgs.stdenv.mkDerivation {
    name = "aspen-kernel-configuration-${version}";
    inherit src;
    nativeBuildInputs = [
      pkgs.bison
      pkgs.flex
    ];
    postPatch = "patchShebangs scripts";
    buildPhase = "make ARCH=x86_64 KCONFIG_ALLCONFIG=${./kernel.fragment} allnoconfig";
    installPhase = "cp .config $out";
  };
in
{
  kernel = pkgs.linuxKernel.manualConfig {
    inherit src version;
    pname = "aspen-kernel";
    # CONFIG_LOCALVERSION of the fragment.
    modDirVersion = "${version}-aspen";
    configfile = configuration;
  };

  # An option that is not there afterwards has a dependency that nobody asked for, and would be missed only when a machine
  # boots. A check of its own, since a kernel that depended on the lab would be built again with every change of that.
  options = pkgs.runCommand "aspen-kernel-options-${version}" { } ''
    export XDG_CACHE_HOME=$TMPDIR/cache
    ${programs}/bin/lab image kernel --check ${configuration} > $out
  '';
}
