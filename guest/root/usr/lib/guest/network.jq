# network_data.json to the plan lines of static_network (see functions).
(.links // [] | map({key: .id, value: .}) | from_entries) as $links
| (.services // [] | map(select(.type == "dns") | .address)) as $dns
| def prefix: if test("^[0-9]+$") then . else
    (split(".") | map(tonumber) | map([range(0; 8) as $i | (. / pow(2; $i) | floor) % 2] | add) | add | tostring) end;
  .networks // [] | .[]
| ($links[.link] // empty) as $link
| ($link.ethernet_mac_address // empty | ascii_downcase) as $mac
| if (.type | test("dhcp|slaac")) then
    empty
  elif .ip_address then
    (if $link.mtu then "\($mac) mtu \($link.mtu)" else empty end),
    "\($mac) static \(.ip_address | split("/")[0])/\(if (.ip_address | contains("/")) then (.ip_address | split("/")[1])
        elif .netmask then (if .netmask | contains(":") then "64" else (.netmask | prefix) end) else "24" end)",
    (.routes // [] | .[] | "\($mac) route \(.network)/\(if .netmask | contains(":") then (if .netmask == "::" then "0" else "64" end)
        else (.netmask | prefix) end) \(.gateway)"),
    ((.dns_nameservers // []) + (.services // [] | map(select(.type == "dns") | .address)) + $dns | unique[] | "\($mac) dns \(.)")
  else empty end
