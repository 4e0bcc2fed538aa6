//! Every option of the program, declared once.

use caelum_config::{Kind, Opt};

/// All options. Defaults suit one machine; nothing has to be set.
pub const OPTIONS: &[Opt] = &[
    Opt::new(
        "api.listen",
        Kind::Str,
        "127.0.0.1:5000",
        "Address and port of the front door, which serves every API by path and identity also at /v3.",
    ),
    Opt::new("api.public_url", Kind::Str, "", "URL under which clients reach the front door; empty means http:// and api.listen."),
    Opt::new("region.name", Kind::Str, "RegionOne", "Name of the region in the service catalog."),
    Opt::new("host.name", Kind::Str, "", "Name of this host in the compute and network services; empty means the machine's host name."),
    Opt::new("log.filter", Kind::Str, "info", "What is logged: a level, or crate=level pairs separated by commas."),
    Opt::new(
        "store.url",
        Kind::SecretStr,
        "",
        "Where state is kept: postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:DIRECTORY; empty means SQLite files below the data directory.",
    ),
    Opt::new(
        "identity.bcrypt_rounds",
        Kind::Int { min: 4, max: 16 },
        "12",
        "Cost of password hashes; each step doubles the time of a login.",
    ),
    Opt::new("identity.token_expiration", Kind::Duration, "1h", "Life of a token."),
    Opt::new(
        "hypervisor.driver",
        Kind::Enum(&["libvirt", "sim"]),
        "libvirt",
        "What runs guests: libvirt, or a simulation that needs nothing and boots nothing.",
    ),
    Opt::new(
        "hypervisor.virt_type",
        Kind::Enum(&["auto", "kvm", "qemu"]),
        "auto",
        "kvm, or qemu for emulation; auto starts a tiny guest once to find out whether KVM works.",
    ),
    Opt::new("hypervisor.sim_vcpus", Kind::Int { min: 1, max: 1_000_000 }, "1024", "Virtual CPUs of the simulated host."),
    Opt::new("hypervisor.sim_memory_mib", Kind::Int { min: 512, max: 1_000_000_000 }, "4194304", "Memory of the simulated host in MiB."),
    Opt::new("hypervisor.sim_disk_gib", Kind::Int { min: 1, max: 1_000_000_000 }, "1048576", "Disk of the simulated host in GiB."),
    Opt::new("compute.cpu_allocation_ratio", Kind::Int { min: 1, max: 64 }, "16", "Virtual CPUs offered per physical CPU."),
    Opt::new(
        "network.plane",
        Kind::Enum(&["auto", "linux", "sim"]),
        "auto",
        "What carries traffic: this host's kernel, or nothing; auto follows hypervisor.driver.",
    ),
    Opt::new(
        "network.public_cidr",
        Kind::Str,
        "172.24.4.0/24",
        "Address range of the external network `public`; floating IPs come from it.",
    ),
    Opt::new("network.public_gateway", Kind::Str, "172.24.4.1", "Address of this host in the external network."),
    Opt::new(
        "network.public_device",
        Kind::Str,
        "",
        "A network device or bridge of this host that carries the external network; empty makes a bridge of our own.",
    ),
    Opt::new(
        "network.masquerade",
        Kind::Bool,
        "yes",
        "Let guests reach the outside through this host's address (only with a bridge of our own).",
    ),
    Opt::new(
        "object.devices",
        Kind::List,
        "",
        "Directories that keep objects, each on a disk of its own: up to three copies of everything lie on different ones; empty means one directory below the data directory.",
    ),
    Opt::new(
        "object.listen",
        Kind::Str,
        "",
        "Address and port of a listener of object storage's own, with Swift at /v1, tempauth at /auth and S3 at /; empty means none.",
    ),
    Opt::new(
        "object.policies",
        Kind::List,
        "Policy-0",
        "Storage policies that containers may choose from, the default one first, new ones only ever added at the end: a NAME keeps copies, NAME=ec:4+2 keeps 4 data and 2 parity fragments on 6 devices (ec:4+2x2: two copies of each; ec:4+2:SCHEME: isa_l_rs_cauchy, isa_l_rs_vand or liberasurecode_rs_vand).",
    ),
    Opt::new(
        "object.tempauth_users",
        Kind::SecretStr,
        "",
        "Users of object storage that the identity service does not know: ACCOUNT:USER = KEY GROUP …, separated by semicolons (groups: .admin, .reseller_admin, .reseller_reader).",
    ),
    Opt::new(
        "object.s3_webhooks",
        Kind::List,
        "",
        "Which webhooks the events of S3 buckets may be sent to: `public` (any host with a public address), names of hosts, and networks such as 10.1.0.0/16, whose addresses may be private; empty means none.",
    ),
    Opt::new(
        "object.s3_brokers",
        Kind::SecretStr,
        "",
        "Message brokers that the events of S3 buckets may be sent to: NAME = amqp[s]://USER:PASSWORD@HOST:PORT/VHOST EXCHANGE KEY, separated by semicolons; `-` is the default exchange. Buckets call them arn:aws:sqs:::NAME.",
    ),
    Opt::new(
        "object.s3_authorities",
        Kind::Str,
        "",
        "PEM file of the certificate authorities that webhooks and brokers are checked with; empty means the system's.",
    ),
    Opt::new("image.max_size", Kind::Size, "1T", "Largest image."),
];
