# One appliance on emulated hardware: it has to say that it is ready, and a press of its power button has to stop it.
{
  pkgs,
  programs,
  appliance,
}:
pkgs.runCommand "aspen-boot"
  {
    nativeBuildInputs = [
      pkgs.dosfstools
      pkgs.mtools
      pkgs.qemu
    ];
    inherit appliance programs;
  }
  ''
    source ${./boot-test.sh}
  ''
