# Boots $appliance with a configuration for one node, and writes the console to $out. Takes no network but the
# emulator's own.

node=$programs/bin/aspen-node
endpoint_id=$("$node" identity --data-dir identity)
cat > node.toml <<TOML
id = 1
raft_listen = "10.0.2.15:4001"
http_listen = "10.0.2.15:8001"
http_insecure = true

[[peers]]
id = 1
endpoint_id = "$endpoint_id"
raft = "10.0.2.15:4001"
http = "10.0.2.15:8001"
TOML
cat > aspen.conf <<TOML
hostname = "n1"
address = "10.0.2.15/24"
TOML
truncate -s 16M config.raw
mkfs.vfat -n ASPEN-CFG config.raw
mcopy -i config.raw aspen.conf node.toml ::
mcopy -i config.raw identity/identity.key ::secret.key
truncate -s 256M data.raw

# The console, as far as it has come, when something takes longer than any machine needs.
await() {
  local line=$1 deadline=$((SECONDS + 120))
  until grep -q "$line" console.log 2> /dev/null; do
    if [ "$SECONDS" -ge "$deadline" ] || ! kill -0 "$emulator" 2> /dev/null; then
      echo "no line with $line" >&2
      cat console.log >&2
      exit 1
    fi
    sleep 0.1
  done
}

mkfifo monitor
qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 256 -nodefaults -no-user-config -display none -no-reboot \
  -kernel "$appliance/bzImage" -initrd "$appliance/initramfs.cpio.zst" -append "console=ttyS0 panic=-1 no_timer_check" \
  -drive file=config.raw,format=raw,if=none,id=config,readonly=on -device virtio-blk-pci,drive=config \
  -drive file=data.raw,format=raw,if=none,id=data -device virtio-blk-pci,drive=data,serial=aspen-data \
  -netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net \
  -serial file:console.log -monitor stdio < monitor > monitor.log 2>&1 &
emulator=$!
exec 3> monitor

await 'ASPEN-READY {'
echo system_powerdown >&3
await 'ASPEN-EXIT {'
wait "$emulator"
grep 'ASPEN-EXIT {' console.log | grep '"reason":"power-button"' | grep '"node_exit":"code 0"'
cp console.log "$out"
