# The functions of nixpkgs' lib that flake.nix uses, with the same meaning. Each names the file in which it was looked
# up. What is not here does not exist.
let
  # A set of files is a function from an absolute path to whether the set has it; a path stands for all below it.
  coerce =
    files:
    if builtins.isFunction files then
      files
    else if !builtins.pathExists files then
      throw "lib.fileset: ${toString files} does not exist"
    else
      path: path == toString files || startsWith (toString files + "/") path;

  startsWith = start: text: builtins.substring 0 (builtins.stringLength start) text == start;

  endsWith =
    end: text:
    let
      length = builtins.stringLength text;
      from = length - builtins.stringLength end;
    in
    from >= 0 && builtins.substring from length text == end;

  # Whether a folder holds anything of the set: folders that would be empty are left out.
  anyBelow =
    files: folder:
    let
      entries = builtins.readDir folder;
      holds =
        name:
        if entries.${name} == "directory" then
          anyBelow files (folder + "/${name}")
        else
          files "${toString folder}/${name}";
    in
    builtins.any holds (builtins.attrNames entries);
in
{
  # lib/fileset/default.nix
  fileset = {
    unions =
      all:
      let
        each = map coerce all;
      in
      path: builtins.any (files: files path) each;

    difference =
      positive: negative:
      let
        with' = coerce positive;
        without = coerce negative;
      in
      path: with' path && !without path;

    fileFilter =
      predicate: root: path:
      let
        name = baseNameOf path;
        file = {
          inherit name;
          type = "regular";
          hasExt = extension: endsWith ".${extension}" name;
        };
      in
      coerce root path && predicate file;

    toSource =
      { root, fileset }:
      let
        files = coerce fileset;
      in
      {
        outPath = builtins.path {
          path = root;
          name = "source";
          filter =
            path: type: if type == "directory" then anyBelow files (/. + path) else files path;
        };
        origSrc = root;
      };
  };
}
