use caelum_node::Summary;

/// What a user needs to know once the cloud is up.
pub fn text(s: &Summary) -> String {
    let data = s.data.display();
    format!(
        "\n  Caelum is up ({seconds:.1} s)\n\n  \
         APIs         {url}\n  \
         Identity     {auth}\n  \
         Guests       {driver}\n  \
         Users        demo (project demo), admin (project admin)\n  \
         Passwords    {data}/clouds.yaml (readable by you only)\n\n  \
         Next:\n    export OS_CLIENT_CONFIG_FILE={data}/clouds.yaml\n    openstack --os-cloud caelum server list\n",
        seconds = s.started_in.as_secs_f64(),
        url = s.url,
        auth = s.auth_url,
        driver = s.driver,
    )
}
