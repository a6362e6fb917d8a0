# The image, as `lab image build` makes it, and the parts of it that most want.
{
  pkgs,
  programs,
  kernel,
}:
let
  inherit (programs) version;

  appliance =
    pkgs.runCommand "aspen-appliance-${version}"
      {
        # mke2fs makes the empty file system of a blank data disk.
        nativeBuildInputs = [ pkgs.e2fsprogs ];
      }
      ''
        export XDG_CACHE_HOME=$TMPDIR/cache
        ${programs}/bin/lab image build --out $out \
          --kernel ${kernel}/bzImage \
          --stub ${pkgs.systemd}/lib/systemd/boot/efi/linuxx64.efi.stub \
          --init ${programs}/bin/aspen-init \
          --node ${programs}/bin/aspen-node
      '';

  # Some outputs of the image under their own names, and what says where they come from.
  part =
    name: files:
    pkgs.runCommand "aspen-${name}-${version}" { } ''
      mkdir $out
      for file in ${toString files} manifest.json sbom.spdx.json; do
        ln -s ${appliance}/$file $out/$file
      done
    '';
in
{
  inherit appliance;
  disk = part "disk" [
    "disk.raw"
    "disk.qcow2"
  ];
  oci = part "oci" [
    "oci"
    "container-disk"
  ];
}
