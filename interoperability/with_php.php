<?php
// Stores and reads with PHP's memcached, for others.py.

[, $name, $action, $servers, $count] = $argv;

$values = [
    'text' => 'grüße', 'digits' => '2024_11', 'bytes' => "\xff\x00",
    'number' => 17, 'structure' => ['a' => [1, 'b']], 'true' => true,
    'float' => 1.5,
];

function described($value, $found) {
    if (!$found) return 'miss';
    if ($value === true) return 'true';
    if ($value === false) return 'false';
    if (is_string($value)) {
        return preg_match('//u', $value)
            ? "text:$value" : 'bytes:' . bin2hex($value);
    }
    if (is_int($value)) return "number:$value";
    if (is_float($value)) return "float:$value";
    return 'structure:' . json_encode($value);
}

$client = new Memcached();
if ($name === 'php-ketama') {
    $client->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
}
if ($name === 'php-json') {
    $client->setOption(Memcached::OPT_SERIALIZER, Memcached::SERIALIZER_JSON_ARRAY);
}
foreach (explode(',', $servers) as $server) {
    [$host, $port] = explode(':', $server);
    $client->addServer($host, (int) $port);
}
$done = [];
if ($action === 'place') {
    for ($number = 0; $number < (int) $count; $number++) {
        $client->set("place:$number", 'x');
    }
} elseif ($action === 'write') {
    foreach ($values as $kind => $value) {
        $done[$kind] = $client->set("theirs:$kind", $value)
            ? 'stored' : 'refused';
    }
} else {
    foreach ([...array_keys($values), 'pickled'] as $kind) {
        $value = $client->get("ours:$kind");
        $found = $client->getResultCode() === Memcached::RES_SUCCESS;
        $done[$kind] = described($value, $found);
    }
}
echo json_encode((object) $done), "\n";
