# Stores and reads with Cache::Memcached::Fast, for others.py.
use strict;
use warnings;
use Cache::Memcached::Fast;
use JSON::PP;

my ($name, $action, $servers, $count) = @ARGV;
my %values = (
    text => "gr\xc3\xbc\xc3\x9fe", digits => '2024_11', bytes => "\xff\x00",
    number => 17, structure => {a => [1, 'b']}, true => 1, float => 1.5,
);

sub described {
    my ($value) = @_;
    return 'miss' if !defined $value;
    return 'structure:' . JSON::PP->new->canonical->encode($value)
        if ref $value;
    my $copy = $value;
    return utf8::decode($copy) ? "text:$value" : 'bytes:' . unpack('H*', $value);
}

my $client = Cache::Memcached::Fast->new({
    servers => [split /,/, $servers],
    $name eq 'perl-ketama' ? (ketama_points => 160) : (),
});
my %done;
if ($action eq 'place') {
    $client->set("place:$_", 'x') for 0 .. $count - 1;
} elsif ($action eq 'write') {
    $done{$_} = $client->set("theirs:$_", $values{$_}) ? 'stored' : 'refused'
        for keys %values;
} else {
    for my $kind (keys %values, 'pickled') {
        my $value = eval { $client->get("ours:$kind") };
        $done{$kind} = $@ ? 'error' : described($value);
    }
}
print JSON::PP->new->latin1->encode(\%done), "\n";
