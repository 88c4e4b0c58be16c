use super::*;

fn default_route(link: u32, metric: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Dhcp;
    route.header.kind = RouteType::Unicast;
    route.header.flags = RouteFlags::Onlink | RouteFlags::Linkdown;
    route.attributes = vec![
        RouteAttribute::Table(254),
        RouteAttribute::Priority(metric),
        RouteAttribute::PrefSource(RouteAddress::Inet([10, 0, 0, 4].into())),
        RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())),
        RouteAttribute::Oif(link),
    ];
    route
}

#[test]
fn a_moved_route_differs_in_its_link_alone() {
    let route = default_route(2, 100);
    let there = moved(&route, 2, 7);
    assert!(uses(&there, 7) && !uses(&there, 2));
    assert_eq!(there.header.flags, RouteFlags::Onlink);
    assert!(same(&moved(&there, 7, 2), &route));
}

#[test]
fn only_the_hops_through_the_link_are_redirected() {
    let mut route = default_route(2, 0);
    let hops = [2, 3].map(|link| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = link;
        hop.flags = RouteNextHopFlags::Dead | RouteNextHopFlags::Onlink;
        hop
    });
    route.attributes = vec![RouteAttribute::MultiPath(hops.to_vec())];
    let there = moved(&route, 2, 7);
    let RouteAttribute::MultiPath(hops) = &there.attributes[0] else {
        panic!("next hops are gone: {there:?}");
    };
    assert_eq!((hops[0].interface_index, hops[1].interface_index), (7, 3));
    assert_eq!(hops[0].flags, RouteNextHopFlags::Onlink);
}

#[test]
fn hops_that_come_together_are_one() {
    let route = default_route(2, 0);
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into()));
    let hops = [2, 7].map(|link| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = link;
        hop.attributes = vec![gateway.clone()];
        hop
    });
    let mut both = route.clone();
    both.header.flags = RouteFlags::empty();
    both.attributes.truncate(3);
    both.attributes
        .push(RouteAttribute::MultiPath(hops.to_vec()));
    let mut alone = default_route(7, 0);
    alone.header.flags = RouteFlags::empty();
    assert!(same(&moved(&both, 2, 7), &alone), "{both:?}");
}

#[test]
fn the_order_of_attributes_and_time_passing_make_no_other_route() {
    let route = default_route(2, 100);
    let mut again = route.clone();
    again.attributes.reverse();
    again.attributes.push(RouteAttribute::Expires(30));
    assert!(same(&route, &again));
    assert!(!same(&route, &default_route(2, 200)));
    assert!(!same_key(&route, &default_route(2, 200)));
    assert!(same_key(&route, &default_route(3, 100)));
}
