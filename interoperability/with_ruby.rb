# Stores and reads with Dalli, for others.py.
require 'dalli'
require 'json'

name, action, servers, count = ARGV
values = {
  text: 'grüße', digits: '2024_11', bytes: "\xff\x00".b, number: 17,
  structure: { 'a' => [1, 'b'] }, true: true, float: 1.5
}

def described(value)
  case value
  when nil then 'miss'
  when true then 'true'
  when String
    text = value.dup.force_encoding('UTF-8')
    text.valid_encoding? ? "text:#{text}" : "bytes:#{value.unpack1('H*')}"
  when Integer then "number:#{value}"
  when Float then "float:#{value}"
  else "structure:#{JSON.generate(value)}"
  end
end

Dalli.logger.level = Logger::FATAL
options = name == 'dalli-json' ? { serializer: JSON } : {}
client = Dalli::Client.new(servers.split(','), options)
done = {}
case action
when 'place'
  count.to_i.times { |number| client.set("place:#{number}", 'x', 600, raw: true) }
when 'write'
  values.each do |kind, value|
    done[kind] = client.set("theirs:#{kind}", value, 600) ? 'stored' : 'refused'
  rescue StandardError => e
    done[kind] = "refused:#{e.class}"
  end
else
  [*values.keys, :pickled].each do |kind|
    done[kind] = described(client.get("ours:#{kind}"))
  rescue StandardError => e
    done[kind] = "error:#{e.class}"
  end
end
puts JSON.generate(done)
